"""The folder of a stream's id files, and its list: which files count, and up to which row of the table they go.

The list is replaced in one step, and a file that it no longer names is removed after that. So a process may be killed
at any instant: the list names files that are whole, and what is not in them is in the table, behind the list's mark.
"""

import json
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from forecache.files import write_durably
from forecache.steps import ids_step
from forecache.stream.mark import Mark
from forecache.stream.repeats.id_file import IdFile, merge_ids, write_ids

logger = logging.getLogger("forecache.stream")
LIST = "LIST.json"
_FORMAT = 1
_MERGED_AT_ONCE = 4


class IdFolder:
    """Files of ids, as the list says.

    Attributes:
        files: Replaced as a whole whenever they change, so that another thread may read them.
        mark: Up to which row they go; None: there is no row in them.
        since: The first day of receipt of which they have all ids, in days since 1970.

    Args:
        path: The folder; this process alone works in it.
        ids: What the ids are made of: a folder of others counts as empty.
        since: As `since`, where the folder is empty, and at the latest.
    """

    def __init__(self, path: Path, *, ids: Mapping[str, str], since: int) -> None:
        self._path, self._ids = path, dict(ids)
        self.files: tuple[IdFile, ...] = ()
        self.mark: Mark | None = None
        self.since = since
        self._merging: Path | None = None
        path.mkdir(parents=True, exist_ok=True)
        try:
            if (path / LIST).exists():
                self._open(json.loads((path / LIST).read_bytes()), since)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("The id files in %s are made anew: %s", path, error)

    def forget(self) -> None:
        """Have no files and no mark."""
        self.files, self.mark = (), None

    def add(self, day: int, digests: bytes) -> None:
        """Write ids of 16 bytes that were received on a day into a file; the list has it once it is saved."""
        path = self._new_path()
        self.files = (*self.files, IdFile(path, day, write_ids(path, digests)))
        ids_step("ids written")

    def save(self, mark: Mark | None, oldest: int) -> None:
        """Make the list that of `files`, without those of days before `oldest`, and remove all other files."""
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
        """Remove what neither counts nor is being merged."""
        kept = {self._path / LIST, self._merging, *(file.path for file in self.files)}
        for path in self._path.iterdir():
            if path not in kept:
                path.unlink()

    def merge(self, smallest: int) -> Iterator[None]:
        """Merge files while there are too many of a size, a part at each step; it may be left anywhere.

        Files of a day that is over become one, those of the newest day are merged by fours of about a size.

        Args:
            smallest: Ids of a file that is of the first size.
        """
        while (chosen := self._too_many(smallest)) is not None:
            path = self._merging = self._new_path()
            try:
                yield from merge_ids(path, chosen)
            finally:
                self._merging = None
            merged = IdFile(path, chosen[0].day, sum(file.count for file in chosen))
            self.files = (*(file for file in self.files if file not in chosen), merged)
            ids_step("ids merged")
            yield

    def _too_many(self, smallest: int) -> Sequence[IdFile] | None:
        newest = max((file.day for file in self.files), default=0)

        def size(file: IdFile) -> tuple[int, int]:
            grade = (max(file.count // smallest, 1).bit_length() - 1) // 2
            return file.day, grade if file.day == newest else -1

        for (day, _), group in groupby(sorted(self.files, key=size), key=size):
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
        self.mark = None if mark is None else Mark(**mark)
