"""The ledger of mailings: the state of each user's message of each as-of date, in the lake's table `mail_ledger`.

Rows are only appended; of a user's rows for an as-of date the one of the newest commit counts. A commit marks a message
as intended before any byte of it is sent; the result is committed with its batch.

All machines send a mailing one at a time, under a lease. Its fencing token is in each commit, so that a process that
stood still and lost the lease can neither begin a batch nor record one over what its successor has recorded.
"""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import date, datetime, timezone
from typing import Any, Literal

from forecache.base.files import write_durably
from forecache.base.settings import Settings
from forecache.base.steps import mail_step
from forecache.base.table_names import MAIL_TABLE
from forecache.kit.delta.small_tables import append_to_small_table, read_small_table, row_schema
from forecache.kit.lease import Lease
from forecache.kit.smtp import ServerAnswer

State = Literal["intended", "accepted", "refused", "skipped", "deferred", "in doubt", "unusable"]
FINAL: tuple[State, ...] = ("accepted", "refused", "skipped")
"""States after which a user gets no message of that as-of date any more."""
_COUNTED: tuple[State, ...] = ("intended", "accepted", "skipped", "in doubt")


@dataclass(frozen=True)
class MailRecord:
    mailing: str
    as_of: date
    user: str  # key of the user, as text. Addresses are not kept.
    # "intended": about to be sent; "accepted": by the server (250); "refused": for ever (5xx); "deferred": not sent,
    # and to be tried again; "in doubt": sent, without an answer; "skipped": in doubt and not to be sent again;
    # "unusable": the address or the template's values were not usable.
    state: State
    message_id: str
    at: datetime  # UTC
    batch: str  # id of the messages that were marked as intended by one commit
    table: str  # the published version that the message was made from
    delta_version: int
    store_version: int
    run_id: str = ""
    code: int = 0  # the server's answer, 0 without one
    reason: str = ""  # the server's text, or another reason for the state
    commit_version: int | None = None

    def with_state(self, state: State, *, code: int = 0, reason: str = "") -> "MailRecord":
        now = datetime.now(timezone.utc)
        return replace(self, state=state, code=code, reason=reason[:300], at=now, commit_version=None)

    def with_answer(self, answer: ServerAnswer) -> "MailRecord":
        return self.with_state(answer.state, code=answer.code, reason=answer.reason)


class MailLedger:
    """The rows of one mailing; without a lease they can be read only."""

    def __init__(self, settings: Settings, mailing: str, lease: Lease | None = None) -> None:
        self._settings, self._mailing, self._lease = settings, mailing, lease

    def latest_rows(self, as_of: date) -> dict[str, MailRecord]:
        """The row that counts of each user for an as-of date."""
        return {row.user: row for row in self._rows([("as_of", "=", as_of)])}

    def batch_rows(self, batch: str) -> list[MailRecord]:
        return list({(row.as_of, row.user): row for row in self._rows([("batch", "=", batch)])}.values())

    def sent_since(self, moment: datetime) -> int:
        """Number of messages of all as-of dates that were, or may have been, sent since a moment."""
        last = {(row.as_of, row.user): row for row in self._rows([("at", ">=", moment)])}
        return sum(row.state in _COUNTED for row in last.values())

    def record(self, records: Sequence[MailRecord]) -> None:
        """Append rows in one commit; LeaseLostError, before, if another process may send the mailing by now."""
        assert self._lease is not None

        def rows_at(newest: int) -> list[dict[str, Any]]:
            return [{**vars(row), "commit_version": newest + 1} for row in records]

        if records:
            schema = row_schema(MailRecord)
            append_to_small_table(self._settings, MAIL_TABLE, schema, rows_at, fence=self._lease)

    def _rows(self, filters: list[tuple[str, str, Any]]) -> list[MailRecord]:
        rows = read_small_table(self._settings, MAIL_TABLE, [("mailing", "=", self._mailing), *filters])
        known = [column.name for column in fields(MailRecord)]  # a table may have columns of earlier versions
        found = [MailRecord(**{name: row[name] for name in known}) for row in rows]
        return sorted(found, key=lambda row: row.commit_version or 0)


@dataclass(frozen=True)
class BatchRecord:
    batch: str
    # The server's answer by user; None: the last byte may have been sent, and no answer was read.
    answers: dict[str, ServerAnswer | None]


class Journal:
    """What the server answered to the messages of the batch under way; on the disk of the machine that sends."""

    def __init__(self, settings: Settings, mailing: str) -> None:
        self._folder = settings.home_path / "mail"
        self._path = self._folder / f"{mailing}.journal"
        self._descriptor = -1

    def read_last_batch(self) -> BatchRecord | None:
        """The last batch that was begun here, None without one; an incomplete last line is ignored."""
        if not self._path.exists():
            return None
        lines = [json.loads(line) for line in self._path.read_text().split("\n")[:-1]]
        if not lines:
            return None
        answers = {line["user"]: ServerAnswer(**line["answer"]) if line["answer"] else None for line in lines[1:]}
        return BatchRecord(lines[0]["batch"], answers)

    @contextmanager
    def begin_batch(self, name: str) -> Iterator[None]:
        """Begin a batch, and drop the notes of the one before, whose results the ledger has."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, json.dumps({"batch": name}) + "\n", mode=0o600)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        mail_step("begun")
        try:
            yield
        finally:
            os.close(self._descriptor)

    def record_last_byte(self, user: str) -> None:
        """Record that the message's last byte is about to be sent: from then on the server may have the message."""
        self._note({"user": user, "answer": None})
        mail_step("at the last byte")

    def record_answer(self, user: str, answer: ServerAnswer) -> None:
        self._note({"user": user, "answer": vars(answer)})
        mail_step("noted")

    def _note(self, line: dict[str, Any]) -> None:
        content = json.dumps(line).encode() + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, f"{self._path} could not be written: the disk is full")
            os.fdatasync(self._descriptor)
        except OSError:
            # Nothing may be written behind a part of a line.
            os.ftruncate(self._descriptor, size)
            raise
