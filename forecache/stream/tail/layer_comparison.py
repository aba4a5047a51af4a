"""Compares live layers with the table of their stream: rows by content hashes, tiles by folding the events again.

Rows that were applied since the last comparison are compared with the table's rows, read and encoded again. Older rows
are unchanged since they were compared if all rows together still have the content hash that the commits updated.
Comparing all by key, as partitions are (`forecache.kit.delta.comparison`), would read the whole table each time.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import Any

from forecache.kit.windows.plan import DAY_US
from forecache.kit.windows.tiles import TileCodec
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.streamed_rows import StreamTable
from forecache.serve.store.live.layer import LiveRow, row_of, times_of
from forecache.serve.store.live.writer import LiveWriter, live_content_sum

BLOCK_ROWS = 1000
PAUSE_S = 5e-4
"""Pause after each block, so that other processes and the thread that applies commits come first."""
EPOCH = date(1970, 1, 1)
_Found = dict[bytes, bytes | None]


@dataclass(frozen=True)
class ComparisonResult:
    """The result of a comparison at a Delta version."""

    version: int
    difference: str = ""  # a sentence; "" if layer and table are equal


@dataclass(frozen=True)
class _LayerSummary:
    """The layer at one moment: its numbers, the content sum of all rows, count and sum of those above a position."""

    numbers: dict[str, Any]
    total: int
    new: int
    new_total: int


def compare_rows(
    writer: LiveWriter,
    expected_rows: Callable[[StreamTable, int, int], list[tuple[bytes, LiveRow]]],
    open_table: Callable[[], StreamTable],
    *,
    since: int,
) -> ComparisonResult:
    """Compare a layer of rows with its table, see `RowLayerBuilder.prepare_comparison`.

    Both were found equal at the version `since`; -1: compare all rows with the table. `expected_rows` reads from the
    table the last row of each key above a position and up to another.
    """
    held = writer.scan(lambda numbers, rows: _summarize_rows(numbers, rows, since))
    version, kept = held.numbers["applied"], hashing.from_hex(held.numbers["sum"])
    if held.total != kept:
        return ComparisonResult(version, _content_hash_difference(held.total, kept))
    table = open_table()
    if table.version < version:
        return ComparisonResult(version, f"it has version {version} of a table whose newest version is {table.version}")
    above, expire = max(since, held.numbers["floor"]), held.numbers["expire_before_us"]
    expected = [(key, row) for key, row in expected_rows(table, above, version) if row.event_us >= expire]
    if len(expected) != held.new or live_content_sum(expected) != held.new_total:
        return ComparisonResult(
            version,
            f"above version {above} it has {held.new:,} rows with the content hash {hashing.to_hex(held.new_total)}, "
            f"and the table {len(expected):,} with {hashing.to_hex(live_content_sum(expected))}",
        )
    return ComparisonResult(version)


def _content_hash_difference(total: int, kept: int) -> str:
    return f"its rows have the content hash {hashing.to_hex(total)} where {hashing.to_hex(kept)} was written"


def _summarize_rows(numbers: dict[str, Any], rows: Iterator[tuple[bytes, bytes]], since: int) -> _LayerSummary:
    above, expire = max(since, numbers["floor"]), numbers["expire_before_us"]
    total = new = new_total = 0
    while block := list(islice(rows, BLOCK_ROWS)):
        total = hashing.add(total, hashing.content_sum(block))
        times = [times_of(record) for _, record in block]
        chosen = [row for row, (position, at) in zip(block, times, strict=True) if position > above and at >= expire]
        new += len(chosen)
        new_total = hashing.add(new_total, hashing.content_sum(chosen))
        time.sleep(PAUSE_S)
    return _LayerSummary(numbers, total, new, new_total)


class TileChanges:
    """Tiles as of a version of the table, of the keys that changed since. One thread records, another one may read.

    Without a `base` version nothing is recorded, since the layer was not verified at any version. In `before`, None
    says that the key had no tiles.
    """

    def __init__(self, base: int | None = None) -> None:
        self.base = base
        self.before: dict[bytes, bytes | None] = {}

    def record(self, keys: Iterable[bytes], tiles: Iterable[bytes | None]) -> None:
        """Record the tiles of keys before a commit changes them, and before others see that commit."""
        if self.base is not None:
            for key, value in zip(keys, tiles, strict=True):
                self.before.setdefault(key, value)

    def merge_older(self, older: "TileChanges") -> "TileChanges":
        """Return all changes since the version of `older`, whose changes end at the version where these begin."""
        if self.base is None or older.base is None:
            return TileChanges()
        merged = TileChanges(older.base)
        merged.before = {**self.before, **older.before}
        return merged


class TileComparison:
    """Compares a layer as of the version that it had at the start, while further commits are applied.

    `night` is the smallest as-of date of the published versions at the start. `changes` end at the version of the
    start, and begin at one at which layer and table were equal; without a base, all keys are compared. `later` are the
    changes by commits after it.
    """

    def __init__(
        self, tiles: TileCodec, night: date, writer: LiveWriter, changes: TileChanges, later: TileChanges
    ) -> None:
        assert later.base is not None
        self.version, self.night, self.changes = later.base, night, changes
        self._tiles, self._writer, self._later = tiles, writer, later

    def older_table_result(self, newest: int) -> ComparisonResult:
        return ComparisonResult(
            self.version, f"it has version {self.version} of a table whose newest version is {newest}"
        )

    def tiles_before(self, keys: list[bytes]) -> list[bytes | None]:
        """Return the tiles of keys at the base version of `changes`; those of an unchanged key are its current ones."""
        values = (None if record is None else row_of(record).value for record in self._writer.get_many(keys))
        now = self._tiles_at_version(dict(zip(keys, values, strict=True)))
        return [self.changes.before.get(key, now[key]) for key in keys]

    def compare(self, expected: Mapping[bytes, bytes | None], night: date) -> ComparisonResult:
        """Compare expected tiles (of all keys, or of those that changed) with the layer's, all of whose rows are read.

        `night` is the smallest as-of date now; tiles of days before it may have been removed meanwhile.
        """
        wanted = None if self.changes.base is None else expected.keys()
        found, numbers, total = self._writer.scan(lambda numbers, rows: _read_tiles(numbers, rows, wanted))
        kept, removed_before = hashing.from_hex(numbers["sum"]), numbers["expire_before_us"] // DAY_US
        first = max((max(night, self.night) - EPOCH).days, removed_before) + 1
        ours, theirs = (
            self._tiles_that_count(self._tiles_at_version(found), first),
            self._tiles_that_count(expected, first),
        )
        wrong = [key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)]
        if wrong:
            return ComparisonResult(
                self.version,
                f"the tiles of {len(wrong):,} of {len(theirs):,} keys are not those of its events, such as those of "
                f"{min(wrong).decode(errors='replace')!r}",
            )
        return ComparisonResult(self.version, "" if total == kept else _content_hash_difference(total, kept))

    def _tiles_at_version(self, found: _Found) -> _Found:
        """Undo the changes of later commits that were applied before the rows were read."""
        later = dict(self._later.before)
        if self.changes.base is None:
            return {**found, **later}
        return {key: later.get(key, value) for key, value in found.items()}

    def _tiles_that_count(self, entries: Mapping[bytes, bytes | None], first: int) -> dict[bytes, bytes]:
        """The tiles of days from `first` on and those of minutes; keys without any are left out."""
        counted: dict[bytes, bytes] = {}
        there = [(key, entry) for key, entry in entries.items() if entry is not None]
        for start in range(0, len(there), BLOCK_ROWS):
            some = there[start : start + BLOCK_ROWS]
            left = self._tiles.drop_before([entry for _, entry in some], first)
            counted.update((key, entry) for (key, _), entry in zip(some, left, strict=True) if entry is not None)
        return counted


def _read_tiles(
    numbers: dict[str, Any], rows: Iterator[tuple[bytes, bytes]], wanted: Collection[bytes] | None
) -> tuple[_Found, dict[str, Any], int]:
    """Read the tiles of some keys (None: of all), the numbers of the layer, and the content sum of all rows."""
    found: _Found = {} if wanted is None else dict.fromkeys(wanted)
    total = 0
    while block := list(islice(rows, BLOCK_ROWS)):
        total = hashing.add(total, hashing.content_sum(block))
        found.update((key, row_of(record).value) for key, record in block if wanted is None or key in wanted)
        time.sleep(PAUSE_S)
    return found, numbers, total
