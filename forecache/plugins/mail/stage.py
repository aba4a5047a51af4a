"""The stage of a mailing: one message to each user about the published version.

A message is marked as intended in the ledger, then sent, then its result is recorded. After a killed run the next one
finds the result of each intended message in `forecache.plugins.mail.ledger`. The only unknown one is a message whose
last byte was sent and whose answer was not read; the mailing declares what happens to it.
"""

import hashlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from datetime import time as clock
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import quote

from forecache.base.errors import InputError, UnavailableError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import mail_step
from forecache.base.table_names import MAIL_TABLE
from forecache.kit.installation import open_lake
from forecache.kit.lease import Lease, LeaseLostError, hold_lease
from forecache.kit.smtp import Relay, ServerAnswer, one_line
from forecache.plugins.mail.ledger import FINAL, Journal, MailLedger, MailRecord
from forecache.plugins.mail.mailing import Mailing, address_of, fill
from forecache.plugins.mail.recipients import (
    MailSelection,
    PublishedRows,
    PublishedVersion,
    Recipient,
    Recipients,
    choose,
    open_published,
)

_NOT_IN_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def message_id(mailing: Mailing, as_of: date, user: str) -> str:
    """Message id, equal in every attempt for the same mailing, as-of date and user: servers drop duplicates by it."""
    digest = hashlib.sha256("\0".join((mailing.name, as_of.isoformat(), user)).encode()).hexdigest()
    return f"<{digest[:32]}@{address_of(mailing.sender).rpartition('@')[2]}>"


def message_of(
    mailing: Mailing, recipient: Recipient, values: Mapping[str, Any], *, as_of: date, at: datetime
) -> bytes:
    """A message, lines ending in CRLF; the same for the same arguments. Raises ValueError if it cannot be made.

    Names and other values cannot add headers or recipients: in headers, line ends and other control characters in them
    become spaces.
    """
    texts = {what: fill(template, values) for what, template in mailing.templates.items()}
    identity = message_id(mailing, as_of, recipient.user)
    message = EmailMessage(policy=SMTP)
    name, address = parseaddr(mailing.sender)
    message["From"] = Address(one_line(name), addr_spec=address)
    person = "" if mailing.person is None else one_line(recipient.fields[mailing.person] or "")
    message["To"] = Address(person, addr_spec=recipient.address)
    message["Subject"] = one_line(texts["subject"])
    message["Date"] = format_datetime(at)
    message["Message-ID"] = identity
    message["Auto-Submitted"] = "auto-generated"
    if mailing.unsubscribe:
        url = one_line(texts["unsubscribe"]).replace(" ", "%20").replace("<", "%3C").replace(">", "%3E")
        message["List-Unsubscribe"] = f"<{url}>"
        if url.startswith("https:"):
            message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(_NOT_IN_TEXT.sub(" ", texts["template"]))
    if "html" in texts:
        message.add_alternative(_NOT_IN_TEXT.sub(" ", texts["html"]), subtype="html")
        message.set_boundary(f"=={identity[1:33]}")
    return message.as_bytes()


_PATIENCE_S = 10.0
BATCH = 50
"""Messages that are intended by one commit."""
_FAILED_IN_A_ROW = 20
_NOT_TRIED = ServerAnswer("deferred", 0, "Not tried.")
_IN_DOUBT = ServerAnswer("in doubt", 0, "The run ended when its last byte may have been sent.")


@dataclass
class MailingRun:
    settings: Settings
    mailing: Mailing
    found: PublishedVersion
    recipients: Recipients
    journal: Journal
    ledger: MailLedger
    last: dict[str, MailRecord]  # the ledger's row of each user at the start of the run
    run_id: str
    lease: Lease | None  # None in a dry run
    counts: Counter[str] = field(default_factory=Counter)  # messages of this run by state
    unwritable: list[MailRecord] = field(default_factory=list)
    failed: list[MailRecord] = field(default_factory=list)
    failed_in_a_row: int = 0
    # By state, the user and the reason of this run's first message in it.
    first_failure: dict[str, str] = field(default_factory=dict)
    last_reason: str = ""  # the reason of its last message

    @property
    def num_done(self) -> int:
        return sum(row.state in FINAL for row in self.last.values())

    def choose(self, limit: int | None) -> MailSelection:
        midnight = datetime.combine(datetime.now(timezone.utc).date(), clock(), timezone.utc)
        budget = self.mailing.daily_limit - self.ledger.sent_since(midnight)
        return choose(
            self.found,
            self.recipients,
            done={user for user, row in self.last.items() if row.state in FINAL},
            last={user for user, row in self.last.items() if row.state in ("deferred", "unusable")},
            budget=budget if limit is None else min(budget, limit),
        )

    def record_unusable(self, chosen: MailSelection) -> None:
        known = {user for user, row in self.last.items() if row.state == "unusable"}
        new = [user for user in chosen.unusable if user not in known]
        self.ledger.record([self._record(user, "").with_state("unusable", reason="No address.") for user in new])

    def messages(
        self, users: Sequence[str], values: PublishedRows, at: datetime
    ) -> Iterator[tuple[str, Recipient, bytes]]:
        """The messages of those users who may still get one, in their order."""
        for user in users:
            recipient = None if self.recipients.opted_out(user) else self.recipients.recipient(user)
            if recipient is None:
                continue
            try:
                given = {**values[user], **recipient.fields}
                content = message_of(self.mailing, recipient, given, as_of=self.found.as_of, at=at)
            except ValueError as error:
                self._count(user, "unusable", str(error))
                self.unwritable.append(self._record(user, "").with_state("unusable", reason=str(error)))
                continue
            yield user, recipient, content

    def send_batch(self, users: Sequence[str], values: PublishedRows, relay: Relay) -> None:
        """Intend, send and record the messages of some users."""
        assert self.lease is not None, "a dry run sends nothing"
        self.lease.ensure()
        self.recipients.refresh()
        at, name = datetime.now(timezone.utc), secrets.token_hex(8)
        letters = list(self.messages(users, values, at))
        self.ledger.record(self.unwritable)
        self.unwritable.clear()
        records = {user: self._record(user, name) for user, _, _ in letters}
        if not records:
            return
        answers: dict[str, ServerAnswer] = {}
        with self.journal.begin_batch(name):
            self.ledger.record(list(records.values()))
            mail_step("intended")
            self.lease.confirm()
            try:
                for _, recipient, content in letters:
                    self._require_acceptance()
                    self._send(relay, recipient, content, answers)
            finally:  # also on an interrupt: this is the last moment at which the answers are known
                with suppress(LeaseLostError):  # of a term that only ended
                    self.lease.confirm()
                ended = [row.with_answer(answers.get(user, _NOT_TRIED)) for user, row in records.items()]
                self.failed = [row for row in self._failed_since_accepted(ended) if row.state != "accepted"]
                # A user has one row in a commit: the ledger has no order within it.
                self.ledger.record(list({row.user: row for row in (*ended, *self._refusals_to_retry())}.values()))
            mail_step("recorded")

    def _send(self, relay: Relay, recipient: Recipient, content: bytes, answers: dict[str, ServerAnswer]) -> None:
        """Send one message; `answers` has its state at each moment."""
        user, lease = recipient.user, self.lease
        assert lease is not None

        def last_byte() -> None:
            lease.ensure()
            self.journal.record_last_byte(user)
            lease.ensure()  # again, as a disk may take long
            answers[user] = _IN_DOUBT

        answer = relay.send(address_of(self.mailing.sender), recipient.address, content, last_byte=last_byte)
        answers[user] = answer
        self.journal.record_answer(user, answer)
        self._count(user, answer.state, f"{answer.code} {answer.reason}")

    def _failed_since_accepted(self, ended: Sequence[MailRecord]) -> list[MailRecord]:
        """The rows since the last accepted message, those of earlier batches included."""
        places = [number for number, row in enumerate(ended) if row.state == "accepted"]
        return list(ended[places[-1] + 1 :]) if places else [*self.failed, *ended]

    def _refusals_to_retry(self) -> list[MailRecord]:
        """Refusals of a server that refuses all messages: they do not depend on the user and are tried again."""
        if self.failed_in_a_row < _FAILED_IN_A_ROW:
            return []
        refused = [row for row in self.failed if row.state == "refused"]
        return [row.with_state("deferred", code=row.code, reason=row.reason) for row in refused]

    def _require_acceptance(self) -> None:
        if self.failed_in_a_row >= _FAILED_IN_A_ROW:
            raise UnavailableError(
                f"The SMTP server took none of {self.failed_in_a_row} messages in a row, the last with: "
                f"{self.last_reason}",
                remedy=f"{self.counts['accepted']:,} were accepted, the others wait: mend that and run again.",
            )

    def _count(self, user: str, state: str, reason: str) -> None:
        self.counts[state] += 1
        if state != "unusable":
            self.failed_in_a_row = 0 if state == "accepted" else self.failed_in_a_row + 1
        self.first_failure.setdefault(state, f"{user!r}: {reason}")
        self.last_reason = reason

    def raise_failures(self) -> None:
        accepted = f"{self.counts['accepted']:,} messages of {self.mailing.name} were accepted"
        again = self.counts["deferred"] + self.counts["in doubt"]
        if again:
            state = "deferred" if self.counts["deferred"] else "in doubt"
            raise UnavailableError(
                f"{accepted}, and {again:,} have to be tried again, such as that of user {self.first_failure[state]}.",
                remedy="Run again later.",
            )
        if self.counts["unusable"]:
            raise InputError(
                f"{accepted}, and {self.counts['unusable']:,} could not be written, such as that of user "
                f"{self.first_failure['unusable']}.",
                remedy="Mend the template, or what is published, and run again.",
            )

    def _record(self, user: str, batch: str) -> MailRecord:
        manifest = self.found.manifest
        return MailRecord(
            mailing=self.mailing.name,
            as_of=self.found.as_of,
            user=user,
            state="intended",
            message_id=message_id(self.mailing, self.found.as_of, user),
            at=datetime.now(timezone.utc),
            batch=batch,
            table=manifest.source.table,
            delta_version=manifest.source.delta_version,
            store_version=manifest.version,
            run_id=self.run_id,
        )


def recover_batch(ledger: MailLedger, journal: Journal) -> None:
    """Record the journal's results of a batch that a killed run left."""
    noted = journal.read_last_batch()
    if noted is None:
        return
    unsent = ServerAnswer("deferred", 0, "The run ended before it was sent.")
    rows = [row for row in ledger.batch_rows(noted.batch) if row.state == "intended"]
    ledger.record([row.with_answer(noted.answers.get(row.user, unsent) or _IN_DOUBT) for row in rows])


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
    with hold_lease(
        open_lake(settings, patience_s=_PATIENCE_S),
        f"mail/{mailing.name}",
        action="sends messages",
        run_id=run_id,
        report=lambda holder: progress(f"waiting for {holder}", None),
    ) as lease:
        sending = _begin(settings, mailing, run_id, lease)
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
    sending = _begin(settings, mailing, "", None)
    folder.mkdir(parents=True, exist_ok=True)
    users, written = sending.choose(limit).users, []
    for _, recipient, content in sending.messages(users, sending.found.read_rows(users), datetime.now(timezone.utc)):
        path = folder / f"{quote(recipient.user, safe='')[:200]}.eml"
        path.write_bytes(content)
        written.append(path)
    sending.raise_failures()
    return written


def _begin(settings: Settings, mailing: Mailing, run_id: str, lease: Lease | None) -> MailingRun:
    """Begin a run after what an earlier one has left is recorded; without a lease a dry run, which records nothing."""
    found, recipients = open_published(settings, mailing), Recipients(settings, mailing)
    recipients.refresh()
    journal = Journal(settings, mailing.name)
    ledger = MailLedger(settings, mailing.name, lease)
    if lease is not None:
        recover_batch(ledger, journal)
    last = ledger.latest_rows(found.as_of)
    if lease is not None:
        open_ = [row for row in last.values() if row.state in ("in doubt", "intended")]
        settled = [resolve_doubt(mailing, row) for row in open_]
        ledger.record(settled)
        last = ledger.latest_rows(found.as_of) if settled else last
    return MailingRun(settings, mailing, found, recipients, journal, ledger, last, run_id, lease)
