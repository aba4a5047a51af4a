"""Rows that have a key in common, as numbers of their keys."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def group(table: pa.Table, key: Sequence[str]) -> tuple[Ints, pa.Table]:
    """A number for each row's key, and the keys in the order of their numbers."""
    codes, num_keys = np.zeros(table.num_rows, np.int64), 1
    for name in key:
        column, many = _numbered(table[name].combine_chunks())
        codes = column if num_keys == 1 else codes * many + column
        codes, num_keys = (codes, many) if num_keys == 1 else _numbered(pa.array(codes))
    first = np.empty(num_keys, np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return codes, table.select(list(key)).take(pa.array(first))


def _numbered(column: pa.Array) -> tuple[Ints, int]:
    found = column.dictionary_encode()
    return found.indices.to_numpy(zero_copy_only=False).astype(np.int64), len(found.dictionary)
