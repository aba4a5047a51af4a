"""Two tables of the same rows, compared bit by bit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Difference:
    """The first value that differs.

    Attributes:
        row: Its number among the compared rows, from 0.
        column: The first column of the row that differs.
        there, here: The values; of equal texts, the bits differ.
    """

    row: int
    column: str
    there: Any
    here: Any


def first_difference(there: pa.Table, here: pa.Table, columns: Sequence[str]) -> Difference | None:
    """The first row that differs in one of the columns; None where all bits are equal.

    Floats are compared by their bits: NaN equals the same NaN, 0.0 differs from -0.0, null equals null alone.
    """
    assert there.num_rows == here.num_rows, "The tables have the same rows."
    found: Difference | None = None
    for name in columns:
        ours, theirs = _bits(here[name]), _bits(there[name])
        differs = np.asarray(pc.fill_null(pc.not_equal(ours, theirs), False))
        differs |= np.asarray(ours.is_valid()) != np.asarray(theirs.is_valid())
        if differs.any():
            row = int(np.argmax(differs))
            if found is None or row < found.row:
                found = Difference(row, name, there[name][row].as_py(), here[name][row].as_py())
    return found


def _bits(column: pa.ChunkedArray) -> pa.Array:
    """The column with floats as the whole numbers that have their bits."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_floating(array.type):
        return array.view(pa.int64() if array.type == pa.float64() else pa.int32())
    return array
