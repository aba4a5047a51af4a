"""Numbers that describe the content of a live layer, written in the same transaction as the content."""

from collections.abc import Iterable, Sequence
from typing import Any

from forecache.store import content_hash
from forecache.store.live.rows import LiveRow, record_of

NEVER = -(1 << 63)
"""An event time before all others: nothing expires."""
NEW: dict[str, Any] = {
    "applied": -1, "verified": -1, "floor": -1, "expire_before_us": NEVER, "pruned": True, "sum": "0", "newest": 0,
    "values": "",
}  # fmt: skip
"""Numbers of an empty layer; `sum` is hexadecimal, `values` is the `LiveLayer.values_id` of the rows."""


def content_of(rows: Iterable[tuple[bytes, LiveRow]]) -> int:
    """The content hash of rows with distinct keys; see `LiveWriter.content_sum`."""
    return content_hash.content_sum((key, record_of(row)) for key, row in rows)


def sum_after(total: int, gone: Sequence[tuple[bytes, bytes]], come: Sequence[tuple[bytes, bytes]]) -> int:
    """Update the content hash for removed (`gone`) and added (`come`) keys and records."""
    if gone:
        total = content_hash.subtract(total, content_hash.content_sum(gone))
    return content_hash.add(total, content_hash.content_sum(come)) if come else total
