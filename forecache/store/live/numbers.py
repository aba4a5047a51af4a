"""What a live layer says of its content, in the same transaction as the content: see `forecache.store.live.writer`."""

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
"""Of a layer without rows; `sum` is hexadecimal, `values` names the declaration that the values were made by."""


def content_of(rows: Iterable[tuple[bytes, LiveRow]]) -> int:
    """The content hash of rows with distinct keys, as `LiveWriter.content_sum` has it."""
    return content_hash.content_sum((key, record_of(row)) for key, row in rows)


def sum_after(total: int, gone: Sequence[tuple[bytes, bytes]], come: Sequence[tuple[bytes, bytes]]) -> int:
    """The content hash after keys and records have gone and come."""
    if gone:
        total = content_hash.subtract(total, content_hash.content_sum(gone))
    return content_hash.add(total, content_hash.content_sum(come)) if come else total
