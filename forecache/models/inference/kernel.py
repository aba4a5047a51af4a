"""The model inside a process: loaded once, then Arrow arrays in and one Arrow array out.

Both engines run this same code.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.base.errors import CheckError, InputError, UnavailableError
from forecache.base.output_kinds import OutputSpec
from forecache.base.plugins import find_hooks
from forecache.kit.spark.python_worker import freeze_loaded
from forecache.models.inference.arrays import from_numpy
from forecache.models.inference.environment import require_versions
from forecache.models.inference.kernel_spec import (
    OUTPUTS,
    OWN,
    PICKED,
    KernelSpec,
    OutputColumn,
    returned_type,
    value_type,
)
from forecache.models.inference.outputs import own_outputs, read_output, returned_values
from forecache.models.inference.runtimes import function, onnx, pyfunc, torch
from forecache.models.inference.runtimes.runtime import FUNCTION, SQL, Kernel, Load, Runtime


@cache
def find_runtimes() -> dict[str, Runtime]:
    """The runtimes by name; their libraries are imported only with a model that needs them."""
    added = [runtime for runtimes in find_hooks("runtimes") for runtime in runtimes]
    return {runtime.name: runtime for runtime in (onnx.RUNTIME, *added, torch.RUNTIME, pyfunc.RUNTIME)}


@cache
def find_loaders() -> dict[str, Load]:
    """Loaders of models by `KernelSpec.runtime`: those of the runtimes, and of models declared as function or SQL."""
    return {
        **{name: each.load for name, each in find_runtimes().items()},
        FUNCTION: function.load,
        SQL: function.load_sql,
    }


def find_loader(runtime: str) -> Load:
    """The loader of a model by `KernelSpec.runtime`; UnavailableError if the plug-in with it is not installed."""
    found = find_loaders().get(runtime)
    if found is None:
        raise UnavailableError(
            f"This installation of Forecache has no runtime {runtime!r}, which the model was packed for.",
            remedy="Install Forecache with its folder forecache/plugins/estimators.",
        )
    return found


_MODELS_PER_PROCESS = 4

_loaded: "OrderedDict[str, Kernel]" = OrderedDict()


def load_kernel(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
    """The process's kernel for a spec, loaded at the first call.

    `payload` returns the model's bytes, `folder` a folder of this machine into which an archive may be unpacked.
    InputError if a package that decides about a value has another version here than on the driver.
    """
    if spec.checksum not in _loaded:
        _loaded[spec.checksum] = new_kernel(spec, payload, folder)
        while len(_loaded) > _MODELS_PER_PROCESS:
            _loaded.popitem(last=False)
    _loaded.move_to_end(spec.checksum)
    return _loaded[spec.checksum]


def new_kernel(
    spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str], *, load: Load | None = None
) -> Kernel:
    """Load a kernel outside the process's cache, as `load_kernel`; by `load` in place of its runtime."""
    require_versions(spec.packages)
    with _one_thread():
        kernel = (load or find_loader(spec.runtime))(spec, payload, folder)
    if OUTPUTS in spec.options:
        kernel = _BoundedKernel(kernel, _own_outputs(spec))
    if PICKED in spec.options:
        kernel = _PickingKernel(kernel, spec.options[PICKED])
    return kernel


class _PickingKernel:
    """A kernel that returns some of a model's outputs, or one value of an output with several a row."""

    def __init__(self, kernel: Kernel, picked: Sequence[tuple[int, int | None]]) -> None:
        self._kernel, self._picked = kernel, picked

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        return self._pick_outputs(self._kernel.run(arrays), len(arrays[0]))

    def run_matrix(self, matrix: np.ndarray) -> list[np.ndarray]:
        return self._pick_outputs(self._kernel.run_matrix(matrix), len(matrix))

    def _pick_outputs(self, values: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        found = []
        for position, place in self._picked:
            one = np.asarray(values[position])
            found.append(one if place is None else _pick_value(one, rows, place))
        return found


def _pick_value(values: np.ndarray, rows: int, place: int) -> np.ndarray:
    """The value at a position of each row, [n], of an output [n, width]."""
    matrix = values.reshape(rows, -1)
    if place >= matrix.shape[1]:
        raise CheckError(
            f"The model returned {matrix.shape[1]} values a row, and the one at place {place} is wanted.",
            remedy="Places count from 0: correct `returns` of the declaration.",
        )
    return np.ascontiguousarray(matrix[:, place])


def _own_outputs(spec: KernelSpec) -> list[OutputSpec | None]:
    """Specifications of the model's own outputs, in its order; None for an output without one."""
    if OWN in spec.options:
        return [None if output is None else read_output(output) for output in spec.options[OWN]]
    outputs = [read_output(output) for output in spec.options[OUTPUTS]]
    return own_outputs(outputs, spec)


class _BoundedKernel:
    """A kernel of a model that was trained here: clips numbers to their bounds and sorts quantiles."""

    def __init__(self, kernel: Kernel, outputs: Sequence[OutputSpec | None]) -> None:
        self._kernel, self._outputs = kernel, outputs

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        return self._bound_outputs(self._kernel.run(arrays))

    def run_matrix(self, matrix: np.ndarray) -> list[np.ndarray]:
        return self._bound_outputs(self._kernel.run_matrix(matrix))

    def _bound_outputs(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            value if output is None else bound_output(output, value)
            for output, value in zip(self._outputs, values, strict=True)
        ]


def bound_output(output: OutputSpec, values: np.ndarray) -> np.ndarray:
    """Clip values to the output's bounds, sort quantiles that cross, and return the probabilities of all classes.

    Sorting follows Chernozhukov, Fernández-Val and Galichon, "Quantile and Probability Curves Without Crossing" (2010).
    """
    if output.kind == "classes" and values.ndim == 1:
        return np.column_stack([1 - values, values])  # of two classes, a library returns the second's probability
    if output.kind == "quantiles":
        values = np.sort(values, axis=1)
    return clip_to_bounds(values, (output.minimum, output.maximum)) if output.numbers else values


def clip_to_bounds(values: np.ndarray, limits: Sequence[float | None]) -> np.ndarray:
    """Clip values to (smallest, largest), each a number or None, and never beyond these in the values' own type."""
    low, high = limits
    if low is None and high is None:
        return values
    return np.clip(values, _inner_limit(low, values.dtype, np.inf), _inner_limit(high, values.dtype, -np.inf))


def _inner_limit(limit: float | None, dtype: np.dtype, inwards: float) -> Any:
    """The nearest number of a type that does not exceed a limit: float32 has no 0.1, only one a little above it."""
    if limit is None or dtype.kind != "f":
        return limit
    nearest = dtype.type(limit)
    beyond = float(nearest) < limit if inwards > 0 else float(nearest) > limit
    return np.nextafter(nearest, dtype.type(inwards)) if beyond else nearest


def score_values(
    kernel: Kernel, spec: KernelSpec, features: list[pa.Array], outputs: Sequence[OutputSpec]
) -> list[np.ndarray]:
    """The values of each output for a batch of feature columns in the model's order; raises as `source_of`.

    Of a number, a text, a boolean and structures [n]; of quantiles, a vector and classes [n, values], for classes the
    probabilities; [n] if a model returns only the names of classes. CheckError if the model returned another number of
    rows, or of values a row.
    """
    return returned_values(spec, kernel.run(features), len(features[0]), outputs)


def score_arrays(kernel: Kernel, spec: KernelSpec, arrays: Sequence[pa.Array]) -> pa.Array:
    rows = len(arrays[0])
    if rows == 0:
        return pa.array([], type=returned_type(spec))
    values = kernel.run(arrays)
    columns = [
        _output_array(value, column, rows, spec.time_zone) for value, column in zip(values, spec.outputs, strict=True)
    ]
    if spec.shape != "struct":
        return columns[0]
    return pa.StructArray.from_arrays(columns, names=[column.name for column in spec.outputs])


def score_stream(
    spec: KernelSpec,
    payload: Callable[[], bytes],
    folder: Callable[[], str],
    batches: Iterator[pa.Array | tuple[pa.Array, ...]],
) -> Iterator[pa.Array]:
    """Score batches in a UDF's worker: one array of predictions for each batch of one or several input arrays."""
    kernel = load_kernel(spec, payload, folder)
    for batch in batches:
        yield score_arrays(kernel, spec, batch if isinstance(batch, tuple) else (batch,))
    freeze_loaded()


def _output_array(value: np.ndarray, column: OutputColumn, rows: int, time_zone: str) -> pa.Array:
    if len(value) != rows:
        raise CheckError(
            f"The model returned {len(value)} rows of {column.name!r} for {rows} rows.",
            remedy="A model must return one prediction for each row.",
        )
    kind = value_type(column.type)
    if column.width is not None:
        if value.ndim == 1 and value.dtype == object:
            return pa.array([None if row is None else list(row) for row in value], pa.list_(kind), from_pandas=True)
        matrix = value.reshape(rows, -1)
        flat = _cast(matrix.reshape(-1), kind, time_zone)
        return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1]).cast(pa.list_(kind))
    if value.ndim == 2 and value.shape[1] == 1:
        value = value[:, 0]
    if value.ndim != 1:
        raise CheckError(
            f"The model returned {value.shape[1:]} values a row of {column.name!r}, declared as one {column.type}.",
            remedy=f"Log it with a signature that says so, or pass result_type='array<{column.type}>'.",
        )
    return _cast(np.ascontiguousarray(value), kind, time_zone)


def _cast(values: np.ndarray, kind: pa.DataType, time_zone: str) -> pa.Array:
    # A model returns NaN for an unknown value. In Spark NaN would be larger than every number.
    unknown = np.isnan(values) if values.dtype.kind == "f" else None
    array = from_numpy(values, unknown if unknown is not None and unknown.any() else None)
    if array.type == kind:
        return array
    try:
        if pa.types.is_timestamp(array.type) and array.type.tz is None and pa.types.is_timestamp(kind):
            import pyarrow.compute as pc

            array = pc.assume_timezone(array, time_zone)
        return array.cast(kind)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"The model returned {array.type}, which does not fit {kind}: {error}.",
            remedy="Log it with a signature that says what it returns, or pass another result_type.",
        ) from None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Libraries that are loaded inside start no thread for each core: a task runs on one.

    The environment is as before afterwards: this process may start a training, which sets its own threads.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    missing = [name for name in names if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, "1"))
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
