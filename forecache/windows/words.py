"""Columns of a table as words of tiles and of nights."""

import numpy as np
import pyarrow as pa

from forecache.windows.layout import NO_TIME, Ints


def words_in(column: pa.Array) -> Ints:
    """The bits of an int64 or a float64 column, int64 [n]; of null the least int64, or NaN."""
    nothing = np.nan if pa.types.is_floating(column.type) else NO_TIME
    return np.ascontiguousarray(column.fill_null(nothing).to_numpy(zero_copy_only=False)).view(np.int64)
