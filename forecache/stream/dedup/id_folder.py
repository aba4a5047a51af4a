"""The folder of a stream's id files, with a list of the valid files and a cursor of the last row that they include.

The list is replaced atomically, and a file that it no longer names is removed after that. So a process may be killed
at any time: the list names only complete files, and ids that are not in them are in the table, after the list's cursor.
"""

import json
import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from forecache.base.files import write_durably
from forecache.base.steps import ids_step
from forecache.kit.process.periodic import HandoverThread
from forecache.stream.dedup.id_file import IdFile, merge_ids, write_ids
from forecache.stream.table.rows import TableCursor

logger = logging.getLogger("forecache.stream")
LIST = "LIST.json"
_FORMAT = 1
_MERGED_AT_ONCE = 4


class IdFolder:
    """The id files that the list names; the folder is used by this process only.

    The tuple `files` is replaced at each change, so that another thread may read it. `mark` is the cursor of the last
    row whose id they include; None if they are empty. `since` is the first day of receipt (since 1970) whose ids are
    complete.

    Args:
        ids: Columns and types that ids are made of; a folder of other ids counts as empty.
        since: Value of `since` of an empty folder; a folder whose ids begin later counts as empty.
    """

    def __init__(self, path: Path, *, ids: Mapping[str, str], since: int) -> None:
        self._path, self._ids = path, dict(ids)
        self.files: tuple[IdFile, ...] = ()
        self.mark: TableCursor | None = None
        self.since = since
        self._merging: Path | None = None
        path.mkdir(parents=True, exist_ok=True)
        try:
            if (path / LIST).exists():
                self._open(json.loads((path / LIST).read_bytes()), since)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("The id files in %s are made anew: %s", path, error)

    def clear(self) -> None:
        """Use no files, as if the folder were empty."""
        self.files, self.mark = (), None

    def add(self, day: int, digests: bytes) -> None:
        """Write ids of 16 bytes, received on one day, into a new file; `save` adds it to the list."""
        path = self._new_path()
        self.files = (*self.files, IdFile(path, day, write_ids(path, digests)))
        ids_step("ids written")

    def save(self, mark: TableCursor | None, oldest: int) -> None:
        """Write the list of `files` without those of days before `oldest`, and remove all other files."""
        self.files = tuple(file for file in self.files if file.day >= oldest)
        self.mark, self.since = mark, max(self.since, oldest)
        files = [{"name": file.path.name, "day": file.day, "count": file.count} for file in self.files]
        content = {
            "format": _FORMAT,
            "ids": self._ids,
            "since": self.since,
            "mark": None if mark is None else asdict(mark),
            "files": files,
        }
        write_durably(self._path / LIST, json.dumps(content, indent=1))
        ids_step("list saved")
        self.sweep()

    def sweep(self) -> None:
        """Remove files that are neither in use nor being merged."""
        kept = {self._path / LIST, self._merging, *(file.path for file in self.files)}
        for path in self._path.iterdir():
            if path not in kept:
                path.unlink()

    def merge(self, smallest: int) -> Iterator[None]:
        """Merge files while there are too many of a size class, a part at each step; it may be abandoned at any step.

        The files of a past day become one; those of the newest day are merged four at a time within a size class.
        `smallest` is the number of ids of a file of the smallest class.
        """
        while (chosen := self._choose_files_to_merge(smallest)) is not None:
            path = self._merging = self._new_path()
            try:
                yield from merge_ids(path, chosen)
            finally:
                self._merging = None
            merged = IdFile(path, chosen[0].day, sum(file.count for file in chosen))
            self.files = (*(file for file in self.files if file not in chosen), merged)
            ids_step("ids merged")
            yield

    def _choose_files_to_merge(self, smallest: int) -> Sequence[IdFile] | None:
        newest = max((file.day for file in self.files), default=0)

        def size_class(file: IdFile) -> tuple[int, int]:
            grade = (max(file.count // smallest, 1).bit_length() - 1) // 2
            return file.day, grade if file.day == newest else -1

        for (day, _), group in groupby(sorted(self.files, key=size_class), key=size_class):
            found = list(group)
            if len(found) >= (_MERGED_AT_ONCE if day == newest else 2):
                return found
        return None

    def _new_path(self) -> Path:
        return self._path / f"{secrets.token_hex(8)}.ids"

    def _open(self, content: Any, since: int) -> None:
        if content["format"] != _FORMAT or content["ids"] != self._ids or content["since"] > since:
            return
        files = tuple(IdFile(self._path / each["name"], each["day"], each["count"]) for each in content["files"])
        mark = content["mark"]
        self.files, self.since = files, content["since"]
        self.mark = None if mark is None else TableCursor(**mark)


_PAUSE_S = 1.0


@dataclass(frozen=True)
class IdBatch:
    """Ids of 16 bytes to write, by the day on which they were received."""

    ids: Mapping[int, list[bytes]]
    mark: TableCursor | None  # of the last row that the files include with these ids
    oldest: int  # ids of earlier days are dropped


class IdWriter(HandoverThread[IdBatch]):
    """Writes ids into files and merges these, see `IdFolder.merge`; repeats what fails while the disk is full."""

    def __init__(self, folder: IdFolder, smallest: int) -> None:
        self._folder, self._smallest = folder, smallest
        self._merging: Iterator[None] | None = folder.merge(smallest)  # a killed process may have left it unfinished
        super().__init__("forecache-stream-ids")

    @property
    def is_merging(self) -> bool:
        """True while there may be files to merge."""
        return self._merging is not None

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
        self._set_free()
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
        self._pause(time.perf_counter() - started, until_given=True)

    def _handle_failure(self, error: Exception) -> None:
        self._merging = None
        text = f"The ids of events are not written beside the stream's state: {error}"
        if text != self.failure:
            logger.error("%s; they stay in memory, and it is tried again.", text)
        self.failure = text
        with suppress(OSError):
            self._folder.sweep()
        self._pause(_PAUSE_S)
