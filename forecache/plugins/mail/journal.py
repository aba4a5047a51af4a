"""Local journal of the batch that is being sent: the messages whose last byte was sent, and the server's answers.

The ledger gets the results of a batch when the batch has ended. If a run is killed within one, this file has the state
of each message: not sent, answered, or, for the one message whose last byte was about to be sent, unknown. Each line is
on disk before the next step.
"""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from forecache.base.files import lock, write_durably
from forecache.base.settings import Settings
from forecache.base.steps import mail_step
from forecache.kit.smtp import ServerAnswer


@dataclass(frozen=True)
class BatchRecord:
    """State of a batch.

    Attributes:
        answers: The server's answer by user; None: the last byte may have been sent, and no answer was read.
    """

    batch: str
    answers: dict[str, ServerAnswer | None]


class Journal:
    """The journal of one mailing in one installation."""

    def __init__(self, settings: Settings, mailing: str) -> None:
        self._folder = settings.home_path / "mail"
        self._path = self._folder / f"{mailing}.journal"
        self._descriptor = -1

    @property
    def home(self) -> str:
        """A unique and permanent id of this installation."""
        path = self._folder / "home"
        if not path.exists():
            with lock(self._folder / "home.lock"):
                if not path.exists():
                    write_durably(path, secrets.token_hex(8))
        return path.read_text()

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
