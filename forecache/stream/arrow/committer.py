"""Commits batches in a thread of its own: one at a time, in order, repeated while the lake or the disk fails."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from forecache.base.errors import ConflictError, ForecacheError, UnavailableError
from forecache.kit.process.periodic import Backoff
from forecache.stream.table.writer import CommitBatch, StreamWriter

logger = logging.getLogger("forecache.stream")
_BACKOFF = Backoff(0.5, 10.0)


@dataclass(frozen=True)
class NumberedBatch:
    """A batch with the number that its pending rows carry."""

    number: int
    batch: CommitBatch


class BatchCommitter:
    """A thread that commits the batches it is given.

    Attributes:
        error: The error that ended the thread; None while it runs.
        failure: Why the current batch is not committed yet; "" if nothing failed.

    Args:
        done: Called in the thread with each committed batch and its Delta version.
    """

    def __init__(self, writer: StreamWriter, done: Callable[[NumberedBatch, int], None]) -> None:
        self._writer, self._done = writer, done
        self.error: BaseException | None = None
        self.failure = ""
        self._given: NumberedBatch | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="forecache-stream-commit", daemon=True)
        self._thread.start()

    @property
    def is_free(self) -> bool:
        """True if no batch is being committed."""
        return self._given is None

    def submit(self, batch: NumberedBatch) -> None:
        """Commit a batch in the thread; only allowed while `is_free`.

        Raises:
            The error that ended the thread.
        """
        self.raise_if_failed()
        with self._changed:
            assert self._given is None, "one batch at a time"
            self._given = batch
            self._changed.notify_all()

    def raise_if_failed(self) -> None:
        """Raise the error that ended the thread, if there is one."""
        if self.error is not None:
            raise self.error

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is free or has ended; return False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._given is None or self.error is not None, timeout_s)

    def close(self, timeout_s: float) -> None:
        """End the thread; a batch in progress is still committed if that succeeds within the timeout."""
        self.wait(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while (given := self._next_batch()) is not None:
                version = self._commit(given)
                if version is None:
                    return
                self._done(given, version)
                with self._changed:
                    self._given = None
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001  # the loop raises it
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def _next_batch(self) -> NumberedBatch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._given is not None or self._closing)
            return self._given

    def _commit(self, given: NumberedBatch) -> int | None:
        """Commit a batch and return its Delta version; None if the thread was closed before that succeeded."""
        for failures in count(1):
            try:
                version = self._writer.write(given.batch)
                self.failure = ""
                return version
            except ConflictError as error:
                if not self._has_same_offsets(given):
                    raise
                self._note_failure(error)
            except (UnavailableError, OSError) as error:
                self._note_failure(error)
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, _BACKOFF.pause_s(failures)):
                    return None
        return None

    def _has_same_offsets(self, given: NumberedBatch) -> bool:
        """True if the table still has the offsets at which the batch begins, so that the commit can be repeated."""
        before = dict(self._writer.offsets)
        self._writer.refresh()
        return self._writer.offsets == before

    def _note_failure(self, error: Exception) -> None:
        text = str(error) if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}"
        if text != self.failure:
            logger.error("A batch was not committed, and is tried again: %s", text)
        self.failure = text
