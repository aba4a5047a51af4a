"""Which events were there before: the ids of those that were received in the last days.

The newest ids are in memory. As soon as enough of them are committed, they go to a file, and are looked for there. So
files hold what the table holds, and never an event that a killed process had not committed.
"""

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from forecache.stream.mark import Mark, last_mark, mark_of_commit
from forecache.stream.record import RECEIVED_AT
from forecache.stream.repeats.digests import DIGEST_BYTES, digests_of
from forecache.stream.repeats.folder import IdFolder
from forecache.stream.repeats.id_file import Asked
from forecache.stream.repeats.writer import Given, IdWriter

_IN_MEMORY, _MOST_AT_ONCE = 1 << 15, 1 << 22
_DAY_US = 86_400_000_000
_CLOSE_S = 10.0
_NEVER = -1 << 62


class Repeats:
    """Remembers an event for `keep_days` days after the day it was received.

    In memory are at most the ids that are not committed and twice `in_memory` others, about 100 bytes each; the files
    take 18 bytes an id. One thread uses it; another, its own, writes files.

    Args:
        unique: Columns that identify an event; none: no event is a repeat.
        in_memory: So many committed ids are written into a file together.
    """

    def __init__(self, unique: Sequence[str], keep_days: int, *, in_memory: int = _IN_MEMORY) -> None:
        self._unique, self._keep, self._most = tuple(unique), keep_days, in_memory
        self._oldest = _NEVER  # the first day of receipt that is remembered, in days since 1970
        self._recent: dict[bytes, int] = {}  # id to day
        self._leaving: dict[bytes, int] = {}  # those that are being written into a file
        self._waiting: deque[tuple[int, list[bytes]]] = deque()  # not committed, by day, in order
        self._committed: list[tuple[int, list[bytes]]] = []  # committed, not in files
        self._count = 0  # of these
        self._mark: Mark | None = None
        self._folder: IdFolder | None = None
        self._writer: IdWriter | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def failure(self) -> str:
        """Why ids stay in memory; "" where they do not."""
        return "" if self._writer is None else self._writer.failure

    @property
    def is_merging(self) -> bool:
        """Whether files are being merged, beside this thread."""
        return self._writer is not None and self._writer.is_merging

    @property
    def mark(self) -> Mark | None:
        """The last row of the table whose id is known; None: none is."""
        return self._mark

    def open(self, path: Path, *, ids: Mapping[str, str], since: int) -> None:
        """Go on with the files of a folder, before anything else; without this they are temporary.

        Args, `mark` afterwards:
            As `forecache.stream.repeats.folder.IdFolder`.
        """
        self._folder = IdFolder(path, ids=ids, since=since)
        self._mark = self._folder.mark

    def forget(self) -> None:
        """Leave the files that were found: their mark is no row of the table."""
        self._opened().forget()
        self._mark = None

    def remember(self, parts: Iterable[pa.Table]) -> int:
        """Remember rows of the stream's table behind `mark`, none of them twice; returns how many there were.

        Args:
            parts: In any order, with their position, place, partition, offset and time of receipt.
        """
        count = held = 0
        lots: dict[int, list[bytes]] = {}
        for rows in parts:
            digests = digests_of(rows, self._unique)
            for day, start, end in _days(rows):
                lots.setdefault(day, []).append(b"".join(digests[start:end]))
            self._mark = max(filter(None, (self._mark, last_mark(rows))), default=None)
            count, held = count + len(digests), held + len(digests)
            if held >= _MOST_AT_ONCE:
                self._write(lots)
                lots, held = {}, 0
        if count > self._most:
            self._write(lots)
            self._opened().save(self._mark, self._oldest)
            self._writing()
            return count
        for day, joined in lots.items():
            digests = [each[at : at + DIGEST_BYTES] for each in joined for at in range(0, len(each), DIGEST_BYTES)]
            self._recent |= dict.fromkeys(digests, day)
            self._committed.append((day, digests))
        self._count += count
        return count

    def new(self, events: pa.Table) -> list[int]:
        """The places of the events that were not there before, and remember them."""
        if not self._unique or not events.num_rows:
            return list(range(events.num_rows))
        places: list[int] = []
        digests = digests_of(events, self._unique)
        for day, start, end in _days(events):
            places += [start + place for place in self._new(digests[start:end], day)]
        return places

    def committed(self, rows: pa.Table, version: int) -> None:
        """Say that the table has rows, the next ones of those that were new.

        Args:
            rows: With their partition, offset and time of receipt.
            version: Of the table with these rows.
        """
        if not self._unique or not rows.num_rows:
            return
        self._mark = mark_of_commit(rows, version)
        left = rows.num_rows
        while left:
            day, digests = self._waiting.popleft()
            if len(digests) > left:
                self._waiting.appendleft((day, digests[left:]))
                digests = digests[:left]
            self._committed.append((day, digests))
            left -= len(digests)
        self._count += rows.num_rows
        if self._leaving and self._writer is not None and self._writer.is_free:
            self._leaving = {}
        if self._count >= self._most and not self._leaving:
            self._leave()

    def close(self) -> None:
        """Write what is committed into files, and end the thread that writes them."""
        if self._folder is not None and self._temporary is None:
            writer = self._writing()
            if writer.wait(_CLOSE_S) and self._count:
                self._leave()
                writer.wait(_CLOSE_S)
        if self._writer is not None:
            self._writer.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _new(self, digests: Sequence[bytes], day: int) -> list[int]:
        """The places of those that were not there before, all received on a day."""
        self._oldest = oldest = max(self._oldest, day - self._keep)
        day = max(day, oldest)
        recent, leaving, in_files, places = self._recent, self._leaving, self._in_files(digests), []
        for place, digest in enumerate(digests):
            if in_files[place] or recent.get(digest, _NEVER) >= oldest or leaving.get(digest, _NEVER) >= oldest:
                continue
            recent[digest] = day
            places.append(place)
        if places:
            self._waiting.append((day, [digests[place] for place in places]))
        return places

    def _in_files(self, digests: Sequence[bytes]) -> list[bool]:
        files = () if self._folder is None else self._folder.files
        found = np.zeros(len(digests), np.bool_)
        if files:
            asked = Asked.of(b"".join(digests))
            for file in files:
                if file.day >= self._oldest:
                    found |= file.has(asked)
        places: list[bool] = found.tolist()
        return places

    def _leave(self) -> None:
        """Have all that is committed written into files."""
        self._leaving = self._recent
        self._recent = {digest: day for day, digests in self._waiting for digest in digests}
        ids: dict[int, list[bytes]] = {}
        for day, digests in self._committed:
            ids.setdefault(day, []).extend(digests)
        self._writing().give(Given(ids, self._mark, self._oldest))
        self._committed, self._count = [], 0

    def _write(self, lots: Mapping[int, Sequence[bytes]]) -> None:
        for day, joined in lots.items():
            self._opened().add(day, b"".join(joined))

    def _opened(self) -> IdFolder:
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="forecache-ids-")
            self._folder = IdFolder(Path(self._temporary.name), ids={}, since=_NEVER)
        return self._folder

    def _writing(self) -> IdWriter:
        if self._writer is None:
            self._writer = IdWriter(self._opened(), self._most)
        return self._writer


def _days(events: pa.Table) -> Iterator[tuple[int, int, int]]:
    """Runs of events that were received on one day: the day, and the places of the first and behind the last."""
    days = events[RECEIVED_AT].to_numpy().view(np.int64) // _DAY_US
    edges = (np.flatnonzero(days[1:] != days[:-1]) + 1).tolist()
    for start, end in zip([0, *edges], [*edges, len(days)], strict=True):
        if start < end:
            yield int(days[start]), start, end
