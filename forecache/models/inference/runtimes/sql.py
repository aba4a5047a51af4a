"""SQL expressions as a model, run by DuckDB on Arrow batches, with one thread, in both engines.

Spark's own SQL would give other last bits: its functions, its rounding and its division by zero are not DuckDB's.
"""

import json
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from forecache.base.errors import InputError
from forecache.models.inference.arrays import column_values, matrix_columns
from forecache.models.inference.kernel_spec import KernelSpec
from forecache.models.inference.runtimes.runtime import Kernel


def pack(expressions: Sequence[str]) -> bytes:
    """Payload for workers: an expression for each output, in order."""
    return json.dumps(list(expressions)).encode()


def load(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
    """`Runtime.load` of SQL expressions."""
    return SqlKernel(json.loads(payload()), spec)


class SqlKernel:
    """SQL expressions over feature columns; each call has a cursor of its own, as threads may share the kernel."""

    def __init__(self, expressions: Sequence[str], spec: KernelSpec) -> None:
        from forecache.declare.models.expressions import build_query, connect

        self._inputs = spec.inputs
        self._statement = build_query(expressions)
        self._connection = connect()

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        """One numpy array of n rows for each output, NaN for null.

        Raises:
            InputError: The expression failed on a value.
        """
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
