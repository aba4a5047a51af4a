"""Columns of a table as words of tiles and of nights."""

from typing import Any

import numpy as np
import pyarrow as pa

from forecache.windows.layout import NO_TIME, Ints


def words_in(column: pa.Array) -> Ints:
    """The bits of an int64 or a float64 column, int64 [n]; of null the least int64, or NaN."""
    nothing = np.nan if pa.types.is_floating(column.type) else NO_TIME
    return np.ascontiguousarray(without_nulls(column, nothing)).view(np.int64)


def without_nulls(column: pa.Array, nothing: float) -> Any:
    """The values of a column of numbers as numpy has them, [n], with another number in place of null."""
    if column.null_count:  # most have none, and filling takes longer than all else with few rows
        column = column.fill_null(nothing)
    return column.to_numpy(zero_copy_only=False)


def integers(column: pa.ChunkedArray) -> Ints:
    """The microseconds since 1970 of a column of timestamps of them that has no null, int64 [n]; not copied."""
    found: Ints = column.combine_chunks().view(pa.int64()).to_numpy(zero_copy_only=False)
    return found
