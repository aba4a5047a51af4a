"""What this machine knows of the batch that it is sending: which message was at its last byte, and what was answered.

The ledger learns of a batch when it is over. Where a run is killed within one, this file, of which every line is on the
disk before the next step, says of each message that it was not sent, or what the server said, or, for the one message
whose last byte was about to go, that nobody here can know.
"""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forecache.files import lock, write_durably
from forecache.settings import Settings
from forecache.steps import Steps

if TYPE_CHECKING:
    from forecache.mail.ledger import State

mail_step = Steps("begun", "intended", "at the last byte", "sent", "answered", "noted", "recorded")
"""Of a message or its batch, as tests kill them."""


@dataclass(frozen=True)
class Answer:
    """What the server said of a message."""

    state: "State"
    code: int
    reason: str


@dataclass(frozen=True)
class Noted:
    """What is known of a batch.

    Attributes:
        answers: By user, the server's answer; None: the last byte may have been sent, and nothing was heard.
    """

    batch: str
    answers: dict[str, Answer | None]


class Journal:
    """The journal of one mailing in one home."""

    def __init__(self, settings: Settings, mailing: str) -> None:
        self._folder = settings.home_path / "mail"
        self._path = self._folder / f"{mailing}.journal"
        self._descriptor = -1

    @property
    def home(self) -> str:
        """A name for this home that no other has; it stays."""
        path = self._folder / "home"
        if not path.exists():
            with lock(self._folder / "home.lock"):
                if not path.exists():
                    write_durably(path, secrets.token_hex(8))
        return path.read_text()

    def noted(self) -> Noted | None:
        """The last batch that was begun here; None where none was. A line that was cut short was not written."""
        if not self._path.exists():
            return None
        lines = [json.loads(line) for line in self._path.read_text().split("\n")[:-1]]
        if not lines:
            return None
        answers = {line["user"]: Answer(**line["answer"]) if line["answer"] else None for line in lines[1:]}
        return Noted(lines[0]["batch"], answers)

    @contextmanager
    def batch(self, name: str) -> Iterator[None]:
        """Begin a batch: what was noted of the one before, which the ledger knows by now, is gone."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, json.dumps({"batch": name}) + "\n", mode=0o600)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        mail_step("begun")
        try:
            yield
        finally:
            os.close(self._descriptor)

    def at_last_byte(self, user: str) -> None:
        """Note that the message's last byte is about to be sent: from then on the server may have it."""
        self._note({"user": user, "answer": None})
        mail_step("at the last byte")

    def answered(self, user: str, answer: Answer) -> None:
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
