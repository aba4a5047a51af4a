"""Conversion of Arrow arrays into a model's input, a numpy matrix or a pandas frame, and of its output into Arrow.

No conversion loops over rows in Python.

Runs inside Spark's Python workers: imports numpy and pyarrow only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.base.errors import InputError

# Matrix products of torch and scikit-learn choose their kernels by the number of rows, which changes the last bits:
# always the same number, and a prediction does not depend on the batch that its row came in.
_BLOCK_ROWS = 1024
_NUMBERS = {"int": pa.int32(), "bigint": pa.int64(), "float": pa.float32(), "double": pa.float64()}


def to_columns(arrays: Sequence[pa.Array], names: Sequence[str]) -> list[pa.Array]:
    """The model's columns in its order, from one struct array or one array for each; InputError for missing or wrong
    ones.

    Without `names` (the signature has none), the columns as they are.
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
    """A C-contiguous [n, width] matrix of a dtype; nulls become NaN. One array column of the dtype without nulls is not
    copied.

    `arrays`: one list or fixed-size-list column, one struct column, or one array for each column. InputError if the
    width is another than the model's (None: it does not say), or a column is not numeric.
    """
    if len(arrays) == 1 and _is_list(arrays[0].type):
        matrix = _from_lists(arrays[0], width, dtype)
    else:
        columns = to_columns(arrays, names)
        matrix = np.empty((len(columns[0]), len(columns)), dtype=dtype)
        for position, column in enumerate(columns):
            name = names[position] if names else f"#{position}"
            matrix[:, position] = cast_numbers(_numeric(column, name), dtype, name)
    require_width(matrix, width)
    return matrix


def to_frame(
    arrays: Sequence[pa.Array], names: Sequence[str], *, types: Sequence[str] = (), optional: Sequence[str] = ()
) -> Any:
    """A `pandas.DataFrame` with the model's columns; one list column becomes a matrix under those names, unless the
    model takes one column of lists.

    Args:
        types: Spark type names of the inputs, into which numbers are converted; empty: no conversion.
        optional: Names that a struct may lack.

    Raises:
        InputError: As `to_matrix`; or a number is null or not whole and the model takes whole numbers.
    """
    import pandas as pd  # type: ignore[import-untyped]

    wanted = dict(zip(names, types, strict=True)) if types else {}
    if len(arrays) == 1 and _is_list(arrays[0].type) and list(wanted.values()) != ["array"]:
        kinds = {_NUMBERS[kind].to_pandas_dtype() for kind in types if kind in _NUMBERS}
        dtype = kinds.pop() if len(kinds) == 1 else arrays[0].type.value_type.to_pandas_dtype()
        matrix = _from_lists(arrays[0], len(names) or None, dtype)
        require_width(matrix, len(names) or None)
        return pd.DataFrame(matrix, columns=list(names) or None, copy=False)
    if len(arrays) == 1 and pa.types.is_struct(arrays[0].type):
        there = {field.name for field in arrays[0].type}
        names = [name for name in names if name in there or name not in optional]
    columns = to_columns(arrays, names)
    keys: Sequence[Any] = names or range(len(columns))
    return pd.DataFrame(
        {key: _as_input(column, wanted.get(key), key) for key, column in zip(keys, columns, strict=True)}
    )


def _as_input(column: pa.Array, wanted: str | None, name: Any) -> Any:
    """A column for pandas: numbers in the model's type, timestamps without a zone as in Spark's pandas functions."""
    if wanted in _NUMBERS and _is_number(column.type):
        return cast_numbers(_numeric(column, name), _NUMBERS[wanted].to_pandas_dtype(), name)
    values = column.to_pandas()
    return values.dt.tz_localize(None) if pa.types.is_timestamp(column.type) and column.type.tz else values


def require_width(matrix: np.ndarray, width: int | None) -> None:
    """Refuse a matrix [n, num_features] of another width than the model's; None: the model does not say."""
    if width is not None and matrix.shape[1] != width:
        raise InputError(
            f"The model takes {width} features and was given {matrix.shape[1]}.",
            remedy="Give the features that it was trained on, in that order.",
        )


def cast_numbers(values: np.ndarray, dtype: Any, name: Any) -> np.ndarray:
    """Cast numbers to a model's type; a smaller float rounds. InputError if the model takes whole numbers, and a value
    is unknown, not whole, or too large for the type."""
    kind = np.dtype(dtype)
    if kind.kind not in "iu" or np.can_cast(values.dtype, kind):
        return values.astype(kind, copy=False)
    with np.errstate(invalid="ignore"):
        whole = values.astype(kind)
    wrong = whole != values
    if wrong.any():
        value = values[wrong][0]
        raise InputError(
            f"The column {name} has {'an unknown value' if value != value else f'the value {value}'}, "
            f"and the model takes {kind.name}.",
            remedy="Fill or round it, or log the model with a signature of double.",
        )
    return whole


def run_in_blocks(matrix: np.ndarray, run: Callable[[np.ndarray], list[np.ndarray]]) -> list[np.ndarray]:
    """Run a model over a matrix in blocks of a fixed number of rows, the last one filled up with zeros."""
    parts = []
    for first in range(0, len(matrix), _BLOCK_ROWS):
        block = matrix[first : first + _BLOCK_ROWS]
        rows = len(block)
        if rows < _BLOCK_ROWS:
            block = np.concatenate([block, np.zeros((_BLOCK_ROWS - rows, matrix.shape[1]), matrix.dtype)])
        parts.append([values[:rows] for values in run(block)])
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def from_numpy(values: np.ndarray, unknown: np.ndarray | None = None) -> pa.Array:
    """An Arrow array [n], null where `unknown`, bool [n], is true; only numbers may have `unknown`."""
    # pyarrow.array would import pandas to check for its objects: half a second a worker. An unknown text that a Python
    # model returns is None or NaN.
    if values.dtype.kind in "fiu" and values.dtype.isnative:
        valid = None if unknown is None else pa.py_buffer(np.packbits(~unknown, bitorder="little"))
        content = pa.py_buffer(np.ascontiguousarray(values))
        return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [valid, content])
    return pa.array(values, from_pandas=True)


def matrix_columns(matrix: np.ndarray) -> list[pa.Array]:
    """The columns of a matrix [n, num_features] as one Arrow array each."""
    return [from_numpy(np.ascontiguousarray(matrix[:, i])) for i in range(matrix.shape[1])]


def column_values(column: pa.Array) -> np.ndarray:
    """A column as a numpy array [n]: numbers with NaN for null, everything else as objects with None for null."""
    return _numeric(column, "") if _is_number(column.type) else np.array(column.to_pylist(), dtype=object)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def _from_lists(lists: pa.Array, width: int | None, dtype: Any) -> np.ndarray:
    rows = len(lists)
    if lists.null_count:
        if np.dtype(dtype).kind in "iu":
            cast_numbers(np.array([np.nan]), dtype, "of arrays")
        filled = np.full((rows, width or _first_width(lists)), np.nan, dtype=dtype)
        valid = lists.drop_null()
        if len(valid):
            filled[numpy_view(lists.is_valid().cast(pa.uint8())).astype(bool)] = _from_lists(valid, width, dtype)
        return filled
    if rows == 0:
        return np.empty((0, width or 0), dtype=dtype)
    values = lists.flatten()
    if not pa.types.is_fixed_size_list(lists.type):
        lengths = np.diff(numpy_view(lists.offsets))
        if (lengths != lengths[0]).any():
            raise InputError(
                f"The array column has rows of {lengths.min()} and of {lengths.max()} values.",
                remedy=f"Every row needs {width or 'the same number of'} values; use nulls for what is unknown.",
            )
    flat = cast_numbers(_numeric(values, "of arrays"), dtype, "of arrays")
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
    if not _is_number(kind):
        raise InputError(
            f"The column {name} has the type {kind}, and the model takes numbers.",
            remedy="Cast it, or log the model with a signature that has this type.",
        )
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    if column.null_count:
        values = numpy_view(column if pa.types.is_floating(kind) else column.cast(pa.float64())).copy()
        values[numpy_view(column.is_valid().cast(pa.uint8())) == 0] = np.nan
        return values
    return numpy_view(column)


def numpy_view(column: pa.Array) -> np.ndarray:
    """A view of numbers without nulls. `to_numpy`, `fill_null` and even a dtype would import pandas in every worker."""
    kind = column.type
    letter = "f" if pa.types.is_floating(kind) else "i" if pa.types.is_signed_integer(kind) else "u"
    dtype = np.dtype(f"{letter}{kind.bit_width // 8}")
    values = np.frombuffer(column.buffers()[1], dtype=dtype, count=len(column) + column.offset)
    return values[column.offset :]
