"""Models that are declared as a function of the project or as SQL expressions.

Workers import a function, and refuse it if its code differs from the driver's. It is called with blocks of one size, so
that numpy's kernels, and with them the last bits of a value, do not depend on the batch that a row is in.

DuckDB runs expressions on Arrow batches, with one thread, in both engines. Spark's own SQL would give other last bits:
its functions, its rounding and its division by zero are not DuckDB's.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.base.errors import CheckError, InputError
from forecache.models.inference.arrays import column_values, matrix_columns, require_width
from forecache.models.inference.kernel_spec import KernelSpec
from forecache.models.inference.runtimes.runtime import Kernel

BLOCK_ROWS = 1024


def pack(path: str, code: str) -> bytes:
    """Payload from which workers load a function: its path, `module:name`, and the fingerprint of the model."""
    from forecache.declare.code.location import ImportableFunction

    return json.dumps({"path": path, "code": code, "root": ImportableFunction.from_path(path).root}).encode()


def load(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
    """`Runtime.load` of a function; InputError if it cannot be imported here, or its code differs from the driver's."""
    packed: dict[str, str] = json.loads(payload())
    return FunctionKernel(_import_function(packed), packed["path"], spec)


class FunctionKernel:
    """A function from feature columns to outputs, called with blocks of a fixed number of rows."""

    def __init__(self, function: Callable[[Mapping[str, Any]], Any], path: str, spec: KernelSpec) -> None:
        self._function, self._path = function, path
        self._inputs, self._outputs = spec.inputs, tuple(column.name for column in spec.outputs)
        self._listed = {column.name for column in spec.outputs if column.type.startswith("struct<")}
        self._checked = False

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        """One array of n rows for each output; InputError if the function failed, CheckError if it returned something
        else, or a row's value depends on the other rows of its block."""
        columns = {name: column_values(array) for name, array in zip(self._inputs, arrays, strict=True)}
        return self._run(columns, len(arrays[0]))

    def run_matrix(self, matrix: np.ndarray) -> list[np.ndarray]:
        require_width(matrix, len(self._inputs))
        return self._run({name: matrix[:, i] for i, name in enumerate(self._inputs)}, len(matrix))

    def _run(self, columns: Mapping[str, np.ndarray], rows: int) -> list[np.ndarray]:
        parts = []
        for first in range(0, max(rows, 1), BLOCK_ROWS):
            some = min(BLOCK_ROWS, rows - first)
            places = first + np.minimum(np.arange(BLOCK_ROWS), max(some - 1, 0)) if rows else None
            block = {name: _take_rows(column, places) for name, column in columns.items()}
            outputs = self._call(block)
            if not self._checked and some > 1:
                self._refuse_dependent(block, outputs, some)
                self._checked = True
            parts.append([values[:some] for values in outputs])
        return [np.concatenate(values) for values in zip(*parts, strict=True)]

    def _call(self, block: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            found = self._function(block)
        except Exception as error:
            raise InputError(
                f"The function {self._path} failed: {type(error).__name__}: {error}.",
                remedy="It gets a mapping of feature names to numpy arrays, NaN where a value is unknown.",
            ) from error
        returned = found if isinstance(found, Mapping) else {self._outputs[0]: found}
        if set(returned) != set(self._outputs):
            what = f"{', '.join(map(str, returned)) or 'nothing'}" if isinstance(found, Mapping) else "one array"
            raise CheckError(
                f"The function {self._path} returned {what}, and {', '.join(self._outputs)} are declared.",
                remedy="Return a mapping with an array for each output.",
            )
        return [self._plain(name, returned[name]) for name in self._outputs]

    def _plain(self, name: str, returned: Any) -> np.ndarray:
        values = self._array(name, returned)
        if values.ndim == 0 or len(values) != BLOCK_ROWS:
            shape = values.shape if values.ndim else "one value"
            raise CheckError(
                f"The function {self._path} returned {shape} of {name!r} for {BLOCK_ROWS} rows.",
                remedy="Return one value for each row, such as with np.where.",
            )
        return values

    def _array(self, name: str, returned: Any) -> np.ndarray:
        """The returned values of an output as an array; lists of structures become one object per row."""
        if name in self._listed and isinstance(returned, (list, tuple, np.ndarray)):
            rows = np.empty(len(returned), object)
            for i, row in enumerate(returned):
                rows[i] = row
            return rows
        try:
            return np.asarray(returned)
        except ValueError:
            raise CheckError(
                f"The function {self._path} returned rows of {name!r} that differ in length.",
                remedy="Return as many values for each row.",
            ) from None

    def _refuse_dependent(self, block: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray], rows: int) -> None:
        """Call the function with half of the rows, twice over: each has to get the same value as among all rows."""
        half = rows // 2
        again = self._call({name: _take_rows(column, np.arange(BLOCK_ROWS) % half) for name, column in block.items()})
        for name, one, other in zip(self._outputs, outputs, again, strict=True):
            if not _equal(one[:half], other[:half]):
                raise CheckError(
                    f"The function {self._path} gives a row another {name!r} among other rows.",
                    remedy="Compute a row from that row alone: no mean, rank or random number over the rows.",
                )


def _take_rows(column: np.ndarray, places: np.ndarray | None) -> np.ndarray:
    """Read-only rows of a column; for an empty column a block of unknown values."""
    if places is None:
        block = np.full(BLOCK_ROWS, np.nan) if column.dtype.kind == "f" else np.zeros(BLOCK_ROWS, column.dtype)
    else:
        block = column[places]
    block.flags.writeable = False
    return block


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind == "f":
        return np.array_equal(one, other, equal_nan=True)
    if one.dtype == object:  # NaN inside objects does not equal itself
        return repr(one.tolist()) == repr(other.tolist())
    return bool(np.array_equal(one, other))


def _import_function(packed: Mapping[str, str]) -> Callable[[Mapping[str, Any]], Any]:
    from forecache.declare.code.fingerprint import fingerprint
    from forecache.declare.code.location import ImportableFunction
    from forecache.declare.models.applied import FunctionModel

    def fingerprint_function(function: Any) -> str:
        return fingerprint(model=FunctionModel(function))

    named = ImportableFunction(packed["path"], packed["root"])
    function: Callable[[Mapping[str, Any]], Any] = named.load(
        code=packed["code"], described=fingerprint_function, to="score"
    )
    return function


def load_sql(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
    return SqlKernel(json.loads(payload()), spec)


class SqlKernel:
    """SQL expressions over feature columns; each call has a cursor of its own, as threads may share the kernel."""

    def __init__(self, expressions: Sequence[str], spec: KernelSpec) -> None:
        from forecache.declare.models.check_training import build_query, connect

        self._inputs = spec.inputs
        self._statement = build_query(expressions)
        self._connection = connect()

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        """One numpy array of n rows for each output, NaN for null; InputError if the expression failed on a value."""
        import duckdb

        features = pa.table(dict(zip(self._inputs, arrays, strict=True)))
        with self._connection.cursor() as cursor:
            cursor.register("features", features)
            try:
                found = cursor.sql(self._statement).to_arrow_table()
            except duckdb.Error as error:
                raise InputError(
                    f"The expression of the model failed: {str(error).splitlines()[0].rstrip('.')}.",
                    remedy="Guard it, such as with CASE, TRY_CAST or NULLIF.",
                ) from None
        return [column_values(column.combine_chunks()) for column in found.columns]

    def run_matrix(self, matrix: np.ndarray) -> list[np.ndarray]:
        return self.run(matrix_columns(matrix))
