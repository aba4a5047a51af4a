"""Deduplicates events by the ids of those that were received in the last days.

The newest ids are in memory. Once enough of them are committed, they are written to a file and looked up there. So
files include only rows of the table, never an event that a killed process had not committed.
"""

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from forecache.stream.dedup.id_file import IdQuery
from forecache.stream.dedup.id_folder import IdBatch, IdFolder, IdWriter
from forecache.stream.table.rows import TableCursor, cursor_of_commit, last_cursor
from forecache.stream.table.schema import RECEIVED_AT

_IN_MEMORY, _MOST_AT_ONCE = 1 << 15, 1 << 22
_DAY_US = 86_400_000_000
_CLOSE_S = 10.0
_NEVER = -1 << 62


class Deduplicator:
    """Keeps the id of an event for `keep_days` days after the day it was received.

    In memory are at most the uncommitted ids and twice `in_memory` others, about 100 bytes each; files take 18 bytes an
    id. It is used by one thread; a thread of its own writes the files. Without `unique` columns no event is a
    duplicate.
    """

    def __init__(self, unique: Sequence[str], keep_days: int, *, in_memory: int = _IN_MEMORY) -> None:
        self._unique, self._keep, self._most = tuple(unique), keep_days, in_memory
        self._oldest = _NEVER  # the first day of receipt whose ids are kept, in days since 1970
        self._recent: dict[bytes, int] = {}  # id to day
        self._leaving: dict[bytes, int] = {}  # ids that are being written into a file
        self._waiting: deque[tuple[int, list[bytes]]] = deque()  # uncommitted ids by day, in order
        self._committed: list[tuple[int, list[bytes]]] = []  # committed ids that are in no file
        self._count = 0  # number of ids in `_committed`
        self.cursor: TableCursor | None = None  # of the last row of the table whose id is known
        self._folder: IdFolder | None = None
        self._writer: IdWriter | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def failure(self) -> str:
        """The reason for which ids cannot be written to files and stay in memory; "" if nothing failed."""
        return "" if self._writer is None else self._writer.failure

    @property
    def is_merging(self) -> bool:
        """True while files are being merged in the other thread."""
        return self._writer is not None and self._writer.is_merging

    def open(self, path: Path, *, ids: Mapping[str, str], since: int) -> None:
        """Use the files of a folder, see `IdFolder`; call it first. Without this call the files are temporary."""
        self._folder = IdFolder(path, ids=ids, since=since)
        self.cursor = self._folder.mark

    def discard_files(self) -> None:
        """Discard the files of the folder, because their cursor is no row of the table."""
        self._get_folder().clear()
        self.cursor = None

    def add_table_rows(self, parts: Iterable[pa.Table]) -> int:
        """Add the ids of rows of the stream's table after `cursor`, in any order, each once; returns their number."""
        count = held = 0
        lots: dict[int, list[bytes]] = {}
        for rows in parts:
            digests = digests_of(rows, self._unique)
            for day, start, end in _runs_by_day(rows):
                lots.setdefault(day, []).append(b"".join(digests[start:end]))
            self.cursor = max(filter(None, (self.cursor, last_cursor(rows))), default=None)
            count, held = count + len(digests), held + len(digests)
            if held >= _MOST_AT_ONCE:
                self._add_to_folder(lots)
                lots, held = {}, 0
        if count > self._most:
            self._add_to_folder(lots)
            self._get_folder().save(self.cursor, self._oldest)
            self._get_writer()
            return count
        for day, joined in lots.items():
            digests = [each[at : at + DIGEST_BYTES] for each in joined for at in range(0, len(each), DIGEST_BYTES)]
            self._recent |= dict.fromkeys(digests, day)
            self._committed.append((day, digests))
        self._count += count
        return count

    def find_new(self, events: pa.Table) -> list[int]:
        """Return the places of the events that are no duplicates, and add their ids."""
        if not self._unique or not events.num_rows:
            return list(range(events.num_rows))
        places: list[int] = []
        digests = digests_of(events, self._unique)
        for day, start, end in _runs_by_day(events):
            places += [start + place for place in self._find_new(digests[start:end], day)]
        return places

    def confirm_commit(self, rows: pa.Table, version: int) -> None:
        """Note that the table has the next ones of the new events, at a Delta version."""
        if not self._unique or not rows.num_rows:
            return
        self.cursor = cursor_of_commit(rows, version)
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
            self._write_committed()

    def close(self) -> None:
        """Write the committed ids into files, and end the thread that writes them."""
        if self._folder is not None and self._temporary is None:
            writer = self._get_writer()
            if writer.wait(_CLOSE_S) and self._count:
                self._write_committed()
                writer.wait(_CLOSE_S)
        if self._writer is not None:
            self._writer.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _find_new(self, digests: Sequence[bytes], day: int) -> list[int]:
        """The places of the new ids among some that were all received on one day."""
        self._oldest = oldest = max(self._oldest, day - self._keep)
        day = max(day, oldest)
        recent, leaving, in_files, places = self._recent, self._leaving, self._find_in_files(digests), []
        for place, digest in enumerate(digests):
            if in_files[place] or recent.get(digest, _NEVER) >= oldest or leaving.get(digest, _NEVER) >= oldest:
                continue
            recent[digest] = day
            places.append(place)
        if places:
            self._waiting.append((day, [digests[place] for place in places]))
        return places

    def _find_in_files(self, digests: Sequence[bytes]) -> list[bool]:
        files = () if self._folder is None else self._folder.files
        found = np.zeros(len(digests), np.bool_)
        if files:
            asked = IdQuery.from_digests(b"".join(digests))
            for file in files:
                if file.day >= self._oldest:
                    found |= file.contains(asked)
        places: list[bool] = found.tolist()
        return places

    def _write_committed(self) -> None:
        self._leaving = self._recent
        self._recent = {digest: day for day, digests in self._waiting for digest in digests}
        ids: dict[int, list[bytes]] = {}
        for day, digests in self._committed:
            ids.setdefault(day, []).extend(digests)
        self._get_writer().submit(IdBatch(ids, self.cursor, self._oldest))
        self._committed, self._count = [], 0

    def _add_to_folder(self, lots: Mapping[int, Sequence[bytes]]) -> None:
        for day, joined in lots.items():
            self._get_folder().add(day, b"".join(joined))

    def _get_folder(self) -> IdFolder:
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="forecache-ids-")
            self._folder = IdFolder(Path(self._temporary.name), ids={}, since=_NEVER)
        return self._folder

    def _get_writer(self) -> IdWriter:
        if self._writer is None:
            self._writer = IdWriter(self._get_folder(), self._most)
        return self._writer


def _runs_by_day(events: pa.Table) -> Iterator[tuple[int, int, int]]:
    """Yield runs of events that were received on one day: the day, the first place, and the one after the last."""
    days = events[RECEIVED_AT].to_numpy().view(np.int64) // _DAY_US
    edges = (np.flatnonzero(days[1:] != days[:-1]) + 1).tolist()
    for start, end in zip([0, *edges], [*edges, len(days)], strict=True):
        if start < end:
            yield int(days[start]), start, end


DIGEST_BYTES = 16
"""Of n different ids, two have equal digests with a probability of about n**2 / 2**129."""


def digests_of(events: pa.Table, unique: Sequence[str]) -> list[bytes]:
    """Return the digest of each event, of its `unique` columns; it does not depend on the table's other events."""
    columns = [events[name] for name in unique]
    if all(_is_fixed(column.type) for column in columns):
        if any(column.null_count for column in columns):
            values = [_as_integers(column).to_pylist() for column in columns]
            return [_digest_numbers(row) for row in zip(*values, strict=True)]
        matrix = np.column_stack([_as_integers(column).to_numpy() for column in columns]).astype("<i8", copy=False)
        raw, width = matrix.tobytes(), 8 * len(columns)
        return [xxhash.xxh3_128_digest(raw[start : start + width]) for start in range(0, len(raw), width)]
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [xxhash.xxh3_128_digest(repr(row).encode()) for row in rows]


def _is_fixed(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date32(kind)


def _as_integers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.int32()).cast(pa.int64()) if pa.types.is_date32(column.type) else column.cast(pa.int64())


def _digest_numbers(row: Sequence[Any]) -> bytes:
    if None in row:
        # Another seed, so that a text never has the digest of the bytes of numbers.
        return xxhash.xxh3_128_digest(repr(row).encode(), seed=1)
    return xxhash.xxh3_128_digest(b"".join(value.to_bytes(8, "little", signed=True) for value in row))
