"""What became of messages that were intended, where the run that intended them did not say so."""

from forecache.errors import UnavailableError
from forecache.mail.journal import Answer, Journal
from forecache.mail.ledger import MailLedger, MailRecord
from forecache.pipeline.mailings.mailing import Mailing


def settle(mailing: Mailing, ledger: MailLedger, journal: Journal) -> None:
    """Record what the journal knows of a batch that a killed run left."""
    noted = journal.noted()
    settled = []
    for row in ledger.of_batch(noted.batch) if noted else ():
        if row.state != "intended" or noted is None:
            continue
        answer = noted.answers.get(row.user, Answer("deferred", 0, "The run ended before it was sent."))
        if answer is None:
            answer = Answer("in doubt", 0, "The run ended when its last byte may have been sent.")
        settled.append(row.became(answer.state, code=answer.code, reason=answer.reason))
    ledger.record(settled)


def decided(mailing: Mailing, row: MailRecord) -> MailRecord:
    """What is done about a message that the server may have."""
    if mailing.was_accepted is not None:
        try:
            is_there = mailing.was_accepted(row.message_id)
        except Exception as error:
            raise UnavailableError(
                f"Whether the server has a message of mailing {mailing.name!r} cannot be found out: {error}.",
                remedy="Nothing was sent: mend `was_accepted` and run again.",
            ) from error
        reason = "The server was asked."
        return row.became("accepted" if is_there else "deferred", reason=reason)
    if mailing.in_doubt == "skip":
        return row.became("skipped", reason="It may have been sent.")
    return row.became("deferred", reason="It may have been sent, and is sent again.")
