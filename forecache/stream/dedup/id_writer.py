"""A thread that writes ids into files and merges the files."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from forecache.stream.dedup.id_folder import IdFolder
from forecache.stream.table_cursor import TableCursor

logger = logging.getLogger("forecache.stream")
_PAUSE_S = 1.0


@dataclass(frozen=True)
class IdBatch:
    """Ids to write.

    Attributes:
        ids: Ids of 16 bytes by the day on which they were received.
        mark: Cursor of the last row that the files include with these ids.
        oldest: Ids of earlier days are dropped.
    """

    ids: Mapping[int, list[bytes]]
    mark: TableCursor | None
    oldest: int


class IdWriter:
    """Writes one batch of ids at a time, and repeats it while the disk is full.

    Attributes:
        failure: Why the current batch is not written yet; "" if nothing failed.

    Args:
        smallest: See `forecache.stream.dedup.id_folder.IdFolder.merge`.
    """

    def __init__(self, folder: IdFolder, smallest: int) -> None:
        self.failure = ""
        self._folder, self._smallest = folder, smallest
        self._given: IdBatch | None = None
        self._merging: Iterator[None] | None = folder.merge(smallest)  # a killed process may have left it unfinished
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="forecache-stream-ids", daemon=True)
        self._thread.start()

    @property
    def is_free(self) -> bool:
        """True if no batch is being written: the last one is in the folder's files."""
        return self._given is None

    @property
    def is_merging(self) -> bool:
        """True while there may be files to merge."""
        return self._merging is not None

    def submit(self, given: IdBatch) -> None:
        """Write ids in the thread; only allowed while `is_free`."""
        with self._changed:
            assert self._given is None, "one lot at a time"
            self._given = given
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is free; return False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._given is None, timeout_s)

    def close(self) -> None:
        """End the thread; a merge in progress is abandoned."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._given is not None or self._merging is not None or self._closing)
                if self._closing:
                    return
            try:
                if self._given is not None:
                    self._write(self._given)
                else:
                    self._merge()
                self.failure = ""
            except Exception as error:  # noqa: BLE001  # such as a full disk: the ids stay in memory meanwhile
                self._handle_failure(error)

    def _write(self, given: IdBatch) -> None:
        before = self._folder.files
        try:
            for day, digests in given.ids.items():
                if day >= given.oldest:
                    self._folder.add(day, b"".join(digests))
            self._folder.save(given.mark, given.oldest)
        except BaseException:
            self._folder.files = before
            raise
        with self._changed:
            self._given = None
            self._changed.notify_all()
        self._merging = self._merging or self._folder.merge(self._smallest)

    def _merge(self) -> None:
        """Do a part of a merge, and pause as long as it took, so that merging uses at most half of a core."""
        started, files = time.perf_counter(), self._folder.files
        assert self._merging is not None
        try:
            next(self._merging)
        except StopIteration:
            self._merging = None
            return
        if self._folder.files is not files:
            try:
                self._folder.save(self._folder.mark, self._folder.since)
            except BaseException:
                self._folder.files = files
                raise
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._given is not None, time.perf_counter() - started)

    def _handle_failure(self, error: Exception) -> None:
        self._merging = None
        text = f"The ids of events are not written beside the stream's state: {error}"
        if text != self.failure:
            logger.error("%s; they stay in memory, and it is tried again.", text)
        self.failure = text
        with suppress(OSError):
            self._folder.sweep()
        with self._changed:
            self._changed.wait_for(lambda: self._closing, _PAUSE_S)
