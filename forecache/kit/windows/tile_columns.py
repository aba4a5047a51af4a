"""Arrow columns as numpy arrays: words of tiles and of the nightly base, and numbers of keys."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.kit.windows.layout import NO_TIME, Ints


def column_words(column: pa.Array) -> Ints:
    """The bits of an int64 or a float64 column, int64 [n]; for null the least int64, or NaN."""
    nothing = np.nan if pa.types.is_floating(column.type) else NO_TIME
    return np.ascontiguousarray(fill_nulls(column, nothing)).view(np.int64)


def fill_nulls(column: pa.Array, nothing: float) -> Any:
    """The values of a column of numbers as a numpy array [n], with a given number in place of null."""
    if column.null_count:  # most have none, and filling takes longer than all else with few rows
        column = column.fill_null(nothing)
    return column.to_numpy(zero_copy_only=False)


def microseconds(column: pa.ChunkedArray) -> Ints:
    """The microseconds since 1970 of a column of timestamps in microseconds without nulls, int64 [n]; no copy."""
    found: Ints = column.combine_chunks().view(pa.int64()).to_numpy(zero_copy_only=False)
    return found


def number_keys(table: pa.Table, key: Sequence[str]) -> tuple[Ints, pa.Table]:
    """Number the distinct keys of rows; returns each row's number, int64 [n], and the keys by number."""
    codes, num_keys = np.zeros(table.num_rows, np.int64), 1
    for name in key:
        column, many = _number_values(table[name].combine_chunks())
        codes = column if num_keys == 1 else codes * many + column
        codes, num_keys = (codes, many) if num_keys == 1 else _number_values(pa.array(codes))
    first = np.empty(num_keys, np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return codes, table.select(list(key)).take(pa.array(first))


def _number_values(column: pa.Array) -> tuple[Ints, int]:
    found = column.dictionary_encode()
    return found.indices.to_numpy(zero_copy_only=False).astype(np.int64), len(found.dictionary)
