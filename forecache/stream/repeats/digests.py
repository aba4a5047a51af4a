"""Ids of events: 16 bytes, XXH3 (128 bits, https://xxhash.com) of the values that identify an event."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

DIGEST_BYTES = 16
"""Of n different ids, two have equal digests with a probability of about n**2 / 2**129."""


def digests_of(events: pa.Table, unique: Sequence[str]) -> list[bytes]:
    """Return the digest of each event, which does not depend on the other events of the table.

    Args:
        unique: Columns that identify an event.
    """
    columns = [events[name] for name in unique]
    if all(_is_fixed(column.type) for column in columns):
        if any(column.null_count for column in columns):
            values = [_numbers(column).to_pylist() for column in columns]
            return [_of_numbers(row) for row in zip(*values, strict=True)]
        matrix = np.column_stack([_numbers(column).to_numpy() for column in columns]).astype("<i8", copy=False)
        raw, width = matrix.tobytes(), 8 * len(columns)
        return [xxhash.xxh3_128_digest(raw[start : start + width]) for start in range(0, len(raw), width)]
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [xxhash.xxh3_128_digest(repr(row).encode()) for row in rows]


def _is_fixed(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date32(kind)


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.int32()).cast(pa.int64()) if pa.types.is_date32(column.type) else column.cast(pa.int64())


def _of_numbers(row: Sequence[Any]) -> bytes:
    if None in row:
        # Another seed, so that a text never has the digest of the bytes of numbers.
        return xxhash.xxh3_128_digest(repr(row).encode(), seed=1)
    return xxhash.xxh3_128_digest(b"".join(value.to_bytes(8, "little", signed=True) for value in row))
