"""The stage of a mailing: a message about what is published to each user, sent once.

A message is intended in the ledger, then sent, then recorded. Where a run is killed, the next one finds out what became
of each message that was intended: see `forecache.mail.journal`. What remains is a message whose last byte was sent and
whose answer nobody read; of that the mailing says what to do.
"""

import time
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from forecache.lake.turn import own_turn
from forecache.mail.choose import published
from forecache.mail.journal import Journal
from forecache.mail.ledger import MAIL_TABLE, MailLedger
from forecache.mail.recipients import Recipients
from forecache.mail.relay import Relay
from forecache.mail.sending import BATCH, Sending
from forecache.mail.settle import decided, settle
from forecache.pipeline.mailings.mailing import Mailing
from forecache.results import Progress, StageResult, no_progress
from forecache.settings import Settings

STAGE = "mail"


def mail(
    settings: Settings,
    mailing: Mailing,
    *,
    limit: int | None = None,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Send what is published to all users who have had no message of its as-of date.

    Args:
        limit: Most messages now, below the mailing's daily limit; None: that alone.

    Returns:
        Rows: messages that the server accepted now. `details` has `as_of`, `store_version`, `delta_version`, and how
        many users are in which state, `waiting` for another run because of the limit among them.

    Raises:
        NotFoundError: Nothing is published, or there are no addresses.
        InputError: The addresses cannot be used, or some messages could not be written; the others are sent.
        UnavailableError: The server cannot be used, or some messages have to be tried again; the others are sent.
        ConflictError: Another home sends the mailing.
    """
    started = time.perf_counter()
    with own_turn(settings, f"mail_{mailing.name}", run_id, progress):
        sending = _begin(settings, mailing, run_id)
        chosen = sending.choose(limit)
        sending.note_unusable(chosen)
        values = sending.found.of(chosen.users)
        with Relay(settings) as relay:
            for first in range(0, len(chosen.users), BATCH):
                progress(f"sending {mailing.name} of {sending.found.as_of}", first / len(chosen.users))
                sending.batch(chosen.users[first : first + BATCH], values, relay)
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
    sending.tell_failures()
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
    """A dry run: write the messages that would be sent now as files `<user>.eml`, and send and record nothing.

    Raises:
        As `mail`, but for the server's part.
    """
    sending = _begin(settings, mailing, "", dry=True)
    folder.mkdir(parents=True, exist_ok=True)
    users, written = sending.choose(limit).users, []
    for _, recipient, content in sending.letters(users, sending.found.of(users), datetime.now(timezone.utc)):
        path = folder / f"{quote(recipient.user, safe='')[:200]}.eml"
        path.write_bytes(content)
        written.append(path)
    sending.tell_failures()
    return written


def _begin(settings: Settings, mailing: Mailing, run_id: str, *, dry: bool = False) -> Sending:
    found, recipients = published(settings, mailing), Recipients(settings, mailing)
    recipients.refresh()
    journal = Journal(settings, mailing.name)
    ledger = MailLedger(settings, mailing.name, journal.home)
    if not dry:
        settle(mailing, ledger, journal)
    last = ledger.last(found.as_of)
    if not dry:
        open_ = [row for row in last.values() if row.state in ("in doubt", "intended")]
        settled = [decided(mailing, row) for row in open_]
        ledger.record(settled)
        last = ledger.last(found.as_of) if settled else last
    return Sending(settings, mailing, found, recipients, journal, ledger, last, run_id)
