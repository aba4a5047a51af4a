"""A thread that writes ids into files and merges these, beside the loop that answers."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from forecache.stream.mark import Mark
from forecache.stream.repeats.folder import IdFolder

logger = logging.getLogger("forecache.stream")
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Given:
    """Ids to be written.

    Attributes:
        ids: By the day on which they were received, ids of 16 bytes.
        mark: With these, the files go up to this row of the table.
        oldest: Ids of days before are forgotten.
    """

    ids: Mapping[int, list[bytes]]
    mark: Mark | None
    oldest: int


class IdWriter:
    """Writes one lot of ids at a time; where the disk is full, again and again.

    Attributes:
        failure: Why the present lot is not written yet; "" where nothing failed.

    Args:
        smallest: See `forecache.stream.repeats.folder.IdFolder.merge`.
    """

    def __init__(self, folder: IdFolder, smallest: int) -> None:
        self.failure = ""
        self._folder, self._smallest = folder, smallest
        self._given: Given | None = None
        self._merging: Iterator[None] | None = folder.merge(smallest)  # as a killed process may have left it to do
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="forecache-stream-ids", daemon=True)
        self._thread.start()

    @property
    def is_free(self) -> bool:
        """Whether it takes ids at once; what it was given before is in the folder's files."""
        return self._given is None

    @property
    def is_merging(self) -> bool:
        """Whether there may be files to merge."""
        return self._merging is not None

    def give(self, given: Given) -> None:
        """Have ids written; `is_free` said that they may be handed over."""
        with self._changed:
            assert self._given is None, "one lot at a time"
            self._given = given
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is free; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._given is None, timeout_s)

    def close(self) -> None:
        """End the thread; a merge that is under way is left."""
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
                self._failed(error)

    def _write(self, given: Given) -> None:
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
        """A part of a merge, and a pause as long as it took: half of a core for the loop that answers."""
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

    def _failed(self, error: Exception) -> None:
        self._merging = None
        text = f"The ids of events are not written beside the stream's state: {error}"
        if text != self.failure:
            logger.error("%s; they stay in memory, and it is tried again.", text)
        self.failure = text
        with suppress(OSError):
            self._folder.sweep()
        with self._changed:
            self._changed.wait_for(lambda: self._closing, _PAUSE_S)
