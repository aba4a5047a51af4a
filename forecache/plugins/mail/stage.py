"""The stage of a mailing: one message to each user about the published version.

A message is marked as intended in the ledger, then sent, then its result is recorded. After a killed run the next one
finds the result of each intended message in `forecache.plugins.mail.ledger`. The only unknown one is a message whose
last byte was sent and whose answer was not read; the mailing declares what happens to it.
"""

import time
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from forecache.base.errors import UnavailableError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.table_names import MAIL_TABLE
from forecache.kit.smtp import Relay, ServerAnswer
from forecache.lake.stage import hold_table_lock
from forecache.plugins.mail.ledger import Journal, MailLedger, MailRecord
from forecache.plugins.mail.mailing import Mailing
from forecache.plugins.mail.recipients import Recipients, open_published
from forecache.plugins.mail.sending import BATCH, MailingRun


def recover_batch(mailing: Mailing, ledger: MailLedger, journal: Journal) -> None:
    """Record the journal's results of a batch that a killed run left."""
    noted = journal.read_last_batch()
    settled = []
    for row in ledger.batch_rows(noted.batch) if noted else ():
        if row.state != "intended" or noted is None:
            continue
        answer = noted.answers.get(row.user, ServerAnswer("deferred", 0, "The run ended before it was sent."))
        if answer is None:
            answer = ServerAnswer("in doubt", 0, "The run ended when its last byte may have been sent.")
        settled.append(row.with_state(answer.state, code=answer.code, reason=answer.reason))
    ledger.record(settled)


def resolve_doubt(mailing: Mailing, row: MailRecord) -> MailRecord:
    """Decide about a message that the server may have: accepted, to be skipped, or to be sent again."""
    if mailing.was_accepted is not None:
        try:
            is_there = mailing.was_accepted(row.message_id)
        except Exception as error:
            raise UnavailableError(
                f"Whether the server has a message of mailing {mailing.name!r} cannot be found out: {error}.",
                remedy="Nothing was sent: mend `was_accepted` and run again.",
            ) from error
        reason = "The server was asked."
        return row.with_state("accepted" if is_there else "deferred", reason=reason)
    if mailing.in_doubt == "skip":
        return row.with_state("skipped", reason="It may have been sent.")
    return row.with_state("deferred", reason="It may have been sent, and is sent again.")


STAGE = "mail"


def mail(
    settings: Settings,
    mailing: Mailing,
    *,
    limit: int | None = None,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Send the published version to all users who have had no message of its as-of date, at most `limit` now.

    The result has the messages that the server accepted as rows, and the number of users in each state in its
    `details`; `waiting` are those beyond the limit.
    """
    started = time.perf_counter()
    with hold_table_lock(settings, f"mail_{mailing.name}", run_id, progress):
        sending = _begin(settings, mailing, run_id)
        chosen = sending.choose(limit)
        sending.record_unusable(chosen)
        values = sending.found.read_rows(chosen.users)
        with Relay(settings) as relay:
            for first in range(0, len(chosen.users), BATCH):
                progress(f"sending {mailing.name} of {sending.found.as_of}", first / len(chosen.users))
                sending.send_batch(chosen.users[first : first + BATCH], values, relay)
    counts, manifest = sending.counts, sending.found.manifest
    details = {
        "as_of": manifest.as_of,
        "store_version": manifest.version,
        "delta_version": manifest.source.delta_version,
        **{state: counts[state] for state in ("accepted", "refused", "deferred", "in doubt")},
        "unusable": len(chosen.unusable) + counts["unusable"],
        "opted_out": chosen.opted_out,
        "without_address": chosen.without_address,
        "waiting": chosen.waiting,
        "done_before": sending.num_done,
    }
    sending.raise_failures()
    return StageResult(
        stage=STAGE,
        subject=mailing.name,
        rows=counts["accepted"],
        seconds=time.perf_counter() - started,
        nights=(sending.found.as_of,),
        table=MAIL_TABLE,
        skipped=not chosen.users,
        details=details,
    )


def write_messages(settings: Settings, mailing: Mailing, folder: Path, *, limit: int | None = None) -> list[Path]:
    """A dry run: write the messages that would be sent now as files `<user>.eml`, and send and record nothing."""
    sending = _begin(settings, mailing, "", dry=True)
    folder.mkdir(parents=True, exist_ok=True)
    users, written = sending.choose(limit).users, []
    for _, recipient, content in sending.messages(users, sending.found.read_rows(users), datetime.now(timezone.utc)):
        path = folder / f"{quote(recipient.user, safe='')[:200]}.eml"
        path.write_bytes(content)
        written.append(path)
    sending.raise_failures()
    return written


def _begin(settings: Settings, mailing: Mailing, run_id: str, *, dry: bool = False) -> MailingRun:
    found, recipients = open_published(settings, mailing), Recipients(settings, mailing)
    recipients.refresh()
    journal = Journal(settings, mailing.name)
    ledger = MailLedger(settings, mailing.name, journal.home)
    if not dry:
        recover_batch(mailing, ledger, journal)
    last = ledger.latest_rows(found.as_of)
    if not dry:
        open_ = [row for row in last.values() if row.state in ("in doubt", "intended")]
        settled = [resolve_doubt(mailing, row) for row in open_]
        ledger.record(settled)
        last = ledger.latest_rows(found.as_of) if settled else last
    return MailingRun(settings, mailing, found, recipients, journal, ledger, last, run_id)
