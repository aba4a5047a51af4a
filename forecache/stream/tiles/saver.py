"""Saves the tiles of a stream to a file periodically, in a thread of its own.

The thread reads the entries of the views in small parts while events change them. Meanwhile the loop records each key
that changes, with its tiles after each batch, up to the commit of a batch that was answered after the last part was
read. The recorded tiles replace those that were read, so that the file has the tiles of exactly that commit, and the
loop never waits. (This is the fuzzy checkpoint of databases: C. Mohan et al., "ARIES", 1992.)
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import pyarrow as pa

from forecache.base.files import replace_file
from forecache.base.steps import tiles_step
from forecache.stream.table.rows import TableCursor, cursor_of_commit
from forecache.stream.tiles.tile_file import TileFileInfo, TileWriter
from forecache.stream.tiles.view_tiles import ViewTiles

logger = logging.getLogger("forecache.stream")
COMMITS, ROWS = 100, 200_000
"""The file is written again once it lacks so many commits or rows. A start reads these in about a second."""
_PART_KEYS, _PAUSE_S = 1000, 0.01
_SHARE = 100
"""Seconds between two writings for each second of processor time that one took: they use at most 1 % of a core."""
_RETRY_S = 30.0
_CLOSE_S = 10.0
Touched = Mapping[str, Sequence[tuple[bytes, int, bytes]]]
"""By view, keys with the time of their newest event and their tiles, as in `StepResult.live`."""


class TileSaver:
    """Decides when the file is written, and writes it. It is used only by the thread that changes the views.

    The file is written again once it lacks `commits` commits. `failure` says why it is not written; "" if nothing
    failed.
    """

    def __init__(self, path: Path, declaration: str, views: Mapping[str, ViewTiles], *, commits: int = COMMITS) -> None:
        self.path, self.declaration, self.failure = path, declaration, ""
        self._views, self._most_commits = views, commits
        self._mark: TableCursor | None = None
        self._up_to = 0  # rows of the table
        self._commits = self._rows = 0  # that the file lacks
        self._given = self._confirmed = 0
        self._writing: _SaveJob | None = None
        self._not_before = 0.0

    def begin(self, mark: TableCursor | None, *, up_to: int, commits: int, rows: int) -> None:
        """Set the position of the views at the start.

        `mark` is the cursor of the last row of the table, up to which it has `up_to` rows; the file lacks `commits` and
        `rows`.
        """
        self._mark, self._up_to, self._commits, self._rows = mark, up_to, commits, rows
        self.update()

    def note_submitted(self, batches: Iterable[Touched]) -> None:
        """Record the changed tiles of the batches that were submitted for one commit."""
        self._given += 1
        writing = self._writing
        if writing is not None and writing.last is None:
            for touched in batches:
                writing.record(touched)
            if writing.is_read:
                writing.last = self._given

    def confirm_commit(self, rows: pa.Table, version: int) -> None:
        """Note that the next submitted commit is in the table, at a Delta version."""
        self._confirmed += 1
        self._commits, self._rows = self._commits + 1, self._rows + rows.num_rows
        self._up_to += rows.num_rows
        if rows.num_rows:
            self._mark = cursor_of_commit(rows, version)
        if self._writing is not None and self._writing.last == self._confirmed:
            self._complete(self._writing)

    def update(self, *, holds: bool = False) -> None:
        """Start, complete or clean up a writing of the file, if it is time.

        `holds` is True if answered events have not been submitted yet.
        """
        writing = self._writing
        if writing is None:
            if self._views and self._is_due and time.monotonic() >= self._not_before:
                self._writing = _SaveJob(self.path, self._views)
        elif writing.has_ended:
            if writing.failure and writing.failure != self.failure:
                logger.error("%s; a start reads the rows behind the last file, and it is tried again.", writing.failure)
            self._writing, self.failure = None, writing.failure
            if writing.failure:
                self._commits, self._rows = self._commits + writing.commits, self._rows + writing.rows
            self._not_before = time.monotonic() + (_RETRY_S if writing.failure else _SHARE * writing.cpu_s)
        elif writing.last is None and writing.is_read and not holds and self._given == self._confirmed:
            writing.last = self._confirmed
            self._complete(writing)

    def finish(self) -> None:
        """Complete the file that is being written or is due; called at the end, when everything is committed."""
        self._not_before = 0.0
        self.update()
        writing = self._writing
        if writing is not None:
            writing.read_without_pauses(_CLOSE_S)
            self.update()
            writing.end(_CLOSE_S)
            self.update()

    def close(self) -> None:
        """End the thread; an incomplete file is abandoned."""
        if self._writing is not None:
            self._writing.cancel()

    @property
    def _is_due(self) -> bool:
        return self._commits >= self._most_commits or self._rows >= ROWS

    def _complete(self, writing: "_SaveJob") -> None:
        if self._mark is None:
            writing.cancel()
            return
        complete_from = {name: view.complete_from for name, view in self._views.items()}
        writing.commits, writing.rows, self._commits, self._rows = self._commits, self._rows, 0, 0
        writing.complete(TileFileInfo(self.declaration, self._mark, self._up_to, complete_from))


class _SaveJob:
    """A file that is being written in a thread."""

    def __init__(self, path: Path, views: Mapping[str, ViewTiles]) -> None:
        self.last: int | None = None
        self.failure, self.cpu_s = "", 0.0
        self.commits = self.rows = 0
        self._path, self._views = path, views
        self._found = {name: (view.keys, len(view.keys)) for name, view in views.items()}
        self._over: dict[str, dict[bytes, bytes]] = {name: {} for name in views}
        self._of: TileFileInfo | None = None
        self._read, self._hurry, self._known = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="forecache-stream-tiles", daemon=True)
        self._thread.start()

    @property
    def is_read(self) -> bool:
        return self._read.is_set()

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def record(self, touched: Touched) -> None:
        """Record tiles of keys that replace those that were read."""
        for name, entries in touched.items():
            self._over[name].update((key, tiles) for key, _, tiles in entries)

    def complete(self, of: TileFileInfo) -> None:
        """Write the file to its end; no further changes are recorded."""
        self._of = of
        self._known.set()

    def read_without_pauses(self, timeout_s: float) -> None:
        """Read the remaining entries without pauses, and wait for that."""
        self._hurry.set()
        self._read.wait(timeout_s)

    def end(self, timeout_s: float) -> None:
        """Wait until it is written, if `complete` was called."""
        if self._known.is_set():
            self._thread.join(timeout_s)

    def cancel(self) -> None:
        """Abandon the file; if `complete` was called, write it to its end."""
        self._hurry.set()
        self._known.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with suppress(_CancelledError):
                with replace_file(self._path) as temporary:
                    with closing(TileWriter(temporary, list(self._views))) as writer:
                        self._write(writer)
                    tiles_step("tiles written")
                tiles_step("tiles replaced")
        except Exception as error:  # noqa: BLE001  # such as a full disk: the previous file remains
            self.failure = f"The tiles are not written beside the stream's state: {error}"
        finally:
            self._read.set()
            self.cpu_s = time.thread_time()

    def _write(self, writer: TileWriter) -> None:
        for name, view in self._views.items():
            keys, count = self._found[name]
            for start in range(0, count, _PART_KEYS):
                self._add(writer, name, keys[start : min(start + _PART_KEYS, count)], view.entries)
        tiles_step("tiles read")
        self._read.set()
        self._known.wait()
        if self._of is None:
            raise _CancelledError
        for name, entries in self._over.items():
            keys_over = iter(entries)
            while some := list(islice(keys_over, _PART_KEYS)):
                self._add(writer, name, some, entries)
        writer.end(self._of)

    def _add(self, writer: TileWriter, name: str, keys: Sequence[bytes], entries: Mapping[bytes, bytes]) -> None:
        """Write some entries, and pause, so that the loop that answers has the interpreter most of the time."""
        found = [(key, tiles) for key in keys if (tiles := entries.get(key)) is not None]
        writer.add(name, [key for key, _ in found], [tiles for _, tiles in found])
        self._hurry.wait(_PAUSE_S)
        if self._known.is_set() and self._of is None:
            raise _CancelledError


class _CancelledError(Exception):
    """The file was abandoned."""
