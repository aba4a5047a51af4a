"""Arrow arrays as a model wants them: a numpy matrix without a Python loop over rows, or a pandas frame; and back.

Runs inside Spark's Python workers: imports numpy and pyarrow only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.errors import InputError


def to_columns(arrays: Sequence[pa.Array], names: Sequence[str]) -> list[pa.Array]:
    """The columns of the model, in its order, from struct fields or from one array each.

    Args:
        arrays: One struct array with the model's columns, or one array for each of them, all of n rows.
        names: The model's input names; empty where its signature has none.

    Raises:
        InputError: A column is missing or there are too many or too few.
    """
    if len(arrays) == 1 and pa.types.is_struct(arrays[0].type):
        fields = [field.name for field in arrays[0].type]
        children = arrays[0].flatten()
        if not names:
            return children
        if set(names) <= set(fields):
            return [children[fields.index(name)] for name in names]
        missing = [name for name in names if name not in fields]
        raise InputError(
            f"The struct given to the model lacks the column {missing[0]!r}; it has {', '.join(fields)}.",
            remedy=f"The model takes {', '.join(names)}.",
        )
    if names and len(arrays) != len(names):
        raise InputError(
            f"The model takes {len(names)} columns ({', '.join(names)}) and was given {len(arrays)}.",
            remedy="Give one array column, one struct column, or the columns in the signature's order.",
        )
    return list(arrays)


def to_matrix(arrays: Sequence[pa.Array], names: Sequence[str], width: int | None, dtype: Any) -> np.ndarray:
    """A C-contiguous [n, width] matrix; nulls become NaN. No copy where one array column has the dtype and no nulls.

    Args:
        arrays: One list or fixed-size-list column, one struct column, or one array for each column; n rows.
        names: The model's input names, to pick struct fields by.
        width: Number of features the model takes; None where it does not say.
        dtype: numpy dtype of the model's input.

    Raises:
        InputError: The width is another than the model's, or a column is not numeric.
    """
    if len(arrays) == 1 and _is_list(arrays[0].type):
        matrix = _from_lists(arrays[0], width, dtype)
    else:
        columns = to_columns(arrays, names)
        matrix = np.empty((len(columns[0]), len(columns)), dtype=dtype)
        for position, column in enumerate(columns):
            matrix[:, position] = _numeric(column, names[position] if names else f"#{position}")
    if width is not None and matrix.shape[1] != width:
        raise InputError(
            f"The model takes {width} features and was given {matrix.shape[1]}.",
            remedy="Give the features that it was trained on, in that order.",
        )
    return matrix


def to_frame(arrays: Sequence[pa.Array], names: Sequence[str]) -> Any:
    """A `pandas.DataFrame` with the model's columns; one list column becomes a float matrix under those names."""
    import pandas as pd  # type: ignore[import-untyped]

    if len(arrays) == 1 and _is_list(arrays[0].type):
        matrix = _from_lists(arrays[0], len(names) or None, arrays[0].type.value_type.to_pandas_dtype())
        return pd.DataFrame(matrix, columns=list(names) or None, copy=False)
    columns = to_columns(arrays, names)
    keys: Sequence[Any] = names or range(len(columns))
    return pd.DataFrame({key: column.to_pandas() for key, column in zip(keys, columns, strict=True)})


def from_numpy(values: np.ndarray, unknown: np.ndarray | None = None) -> pa.Array:
    """An Arrow array [n]; null where `unknown`, bool [n], is true, which only numbers may be."""
    # pyarrow.array would import pandas to see whether it was given one of its objects: half a second a worker.
    if values.dtype.kind in "fiu" and values.dtype.isnative:
        valid = None if unknown is None else pa.py_buffer(np.packbits(~unknown, bitorder="little"))
        content = pa.py_buffer(np.ascontiguousarray(values))
        return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [valid, content])
    return pa.array(values)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _from_lists(lists: pa.Array, width: int | None, dtype: Any) -> np.ndarray:
    rows = len(lists)
    if lists.null_count:
        filled = np.full((rows, width or _first_width(lists)), np.nan, dtype=dtype)
        valid = lists.drop_null()
        if len(valid):
            filled[_plain(lists.is_valid().cast(pa.uint8())).astype(bool)] = _from_lists(valid, width, dtype)
        return filled
    if rows == 0:
        return np.empty((0, width or 0), dtype=dtype)
    values = lists.flatten()
    if not pa.types.is_fixed_size_list(lists.type):
        lengths = np.diff(_plain(lists.offsets))
        if (lengths != lengths[0]).any():
            raise InputError(
                f"The array column has rows of {lengths.min()} and of {lengths.max()} values.",
                remedy=f"Every row needs {width or 'the same number of'} values; use nulls for what is unknown.",
            )
    flat = _numeric(values, "the array column").astype(dtype, copy=False)
    return np.ascontiguousarray(flat.reshape(rows, -1))


def _first_width(lists: pa.Array) -> int:
    valid = lists.drop_null()
    return len(valid[0]) if len(valid) else 0


def _numeric(column: pa.Array, name: str) -> np.ndarray:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_decimal(kind) or pa.types.is_null(kind):
        column, kind = column.cast(pa.float64()), pa.float64()
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise InputError(
            f"The column {name} has the type {kind}, and the model takes numbers.",
            remedy="Cast it, or log the model with a signature that has this type.",
        )
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    if column.null_count:
        values = _plain(column if pa.types.is_floating(kind) else column.cast(pa.float64())).copy()
        values[_plain(column.is_valid().cast(pa.uint8())) == 0] = np.nan
        return values
    return _plain(column)


def _plain(column: pa.Array) -> np.ndarray:
    """A view of numbers without nulls. `to_numpy`, `fill_null` and even a dtype would import pandas in every worker."""
    kind = column.type
    letter = "f" if pa.types.is_floating(kind) else "i" if pa.types.is_signed_integer(kind) else "u"
    dtype = np.dtype(f"{letter}{kind.bit_width // 8}")
    values = np.frombuffer(column.buffers()[1], dtype=dtype, count=len(column) + column.offset)
    return values[column.offset :]
