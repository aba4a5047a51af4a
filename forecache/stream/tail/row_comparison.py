"""Compares a live layer of rows with the table of its stream, by content hashes over all rows.

Rows that were applied since the last comparison are compared with the table's rows, read and encoded again. Older rows
are unchanged since they were compared if all rows together still have the content hash that the commits updated.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.stream_source import StreamTable
from forecache.serve.store.live.rows import LiveRow, times_of
from forecache.serve.store.live.writer import LiveWriter, live_content_sum

BLOCK_ROWS = 1000
PAUSE_S = 5e-4
"""Pause after each block, so that other processes and the thread that applies commits come first."""


@dataclass(frozen=True)
class ComparisonResult:
    """The result of a comparison at a Delta version.

    Attributes:
        difference: A sentence; "" if layer and table are equal.
    """

    version: int
    difference: str = ""


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
    """Compare a layer of rows with its table, see `LayerBuilder.prepare_comparison`.

    Args:
        since: The version at which both were found equal; -1: compare all rows with the table.
        expected_rows: Reads from the table the last row of each key above a position and up to another.
    """
    held = writer.scan(lambda numbers, rows: _summarize_rows(numbers, rows, since))
    version, kept = held.numbers["applied"], hashing.from_hex(held.numbers["sum"])
    if held.total != kept:
        return ComparisonResult(version, content_hash_difference(held.total, kept))
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


def content_hash_difference(total: int, kept: int) -> str:
    """Say that the rows do not have the content hash that the commits recorded."""
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
