"""The model inside a worker process: loaded once, then Arrow arrays in and one Arrow array out.

Spark's Python workers and the engine without a JVM run this same code. It imports numpy and pyarrow; the runtime of
a model (ONNX Runtime, LightGBM, torch, mlflow) is imported when the model that needs it is loaded, and no other.
"""

import io
import os
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from forecache.errors import CheckError, InputError
from forecache.scoring.batch import to_frame, to_matrix

EngineName = Literal["onnx", "lightgbm", "torch", "pyfunc"]

# Bump where a change of this code can change a prediction: what was scored before is then scored again.
KERNEL_VERSION = 1
# Rows per call of a compiled runtime: intermediate layers stay in the second-level cache.
_ROWS_PER_CALL = 4096
_MODELS_PER_PROCESS = 4


@dataclass(frozen=True)
class OutputColumn:
    """An output of a model: `type` is a Spark type name of one value, `width` its number of values a row, if an array."""

    name: str
    type: str
    width: int | None = None

    @property
    def ddl(self) -> str:
        return f"array<{self.type}>" if self.width is not None else self.type


@dataclass(frozen=True)
class KernelSpec:
    """All that a worker needs to know beside the model's bytes; small, it travels with every task.

    Attributes:
        checksum: Of the model's content, its configuration and the engine: the key of the process's cache.
        inputs: Input names of the signature, in order; empty where it has none (a tensor).
        width: Number of features, where known.
        dtype: numpy dtype of the matrix that the model takes.
        outputs: What the UDF returns, in order.
        shape: "scalar" (one output), "array" (one output of several values) or "struct".
        options: Of the engine, such as the names of the ONNX outputs.
        model_config: As for `mlflow.pyfunc.load_model`.
    """

    engine: EngineName
    checksum: str
    inputs: tuple[str, ...]
    width: int | None
    dtype: str
    outputs: tuple[OutputColumn, ...]
    shape: Literal["scalar", "array", "struct"]
    options: Mapping[str, Any] = field(default_factory=dict)
    model_config: Mapping[str, Any] | None = None


class Kernel(Protocol):
    """A loaded model."""

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        """One numpy array of n rows for each output of the spec."""


_loaded: "OrderedDict[str, Kernel]" = OrderedDict()


def load_kernel(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
    """The process's kernel for a spec, loaded at the first call.

    Args:
        payload: Returns the model's bytes: an ONNX or LightGBM file, or a zip archive of the model's folder.
        folder: Returns a folder of this machine into which an archive may be unpacked.
    """
    if spec.checksum not in _loaded:
        _bound_threads()
        _loaded[spec.checksum] = _LOADERS[spec.engine](spec, payload, folder)
        while len(_loaded) > _MODELS_PER_PROCESS:
            _loaded.popitem(last=False)
    _loaded.move_to_end(spec.checksum)
    return _loaded[spec.checksum]


def score_arrays(kernel: Kernel, spec: KernelSpec, arrays: Sequence[pa.Array]) -> pa.Array:
    """Predictions of a batch, as the Arrow type that the spec names."""
    rows = len(arrays[0])
    if rows == 0:
        return pa.array([], type=arrow_type(spec))
    values = kernel.run(arrays)
    columns = [
        _output_array(value, column, rows) for value, column in zip(values, spec.outputs, strict=True)
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
    """What the UDF runs: one array of predictions for each batch of one or several input arrays."""
    kernel = load_kernel(spec, payload, folder)
    for batch in batches:
        yield score_arrays(kernel, spec, batch if isinstance(batch, tuple) else (batch,))


def arrow_type(spec: KernelSpec) -> pa.DataType:
    types = [pa.list_(ARROW_TYPES[c.type]) if c.width is not None else ARROW_TYPES[c.type] for c in spec.outputs]
    if spec.shape != "struct":
        return types[0]
    return pa.struct([pa.field(c.name, kind) for c, kind in zip(spec.outputs, types, strict=True)])


ARROW_TYPES = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def _output_array(value: np.ndarray, column: OutputColumn, rows: int) -> pa.Array:
    if len(value) != rows:
        raise CheckError(
            f"The model returned {len(value)} rows of {column.name!r} for {rows} rows.",
            remedy="A model must return one prediction for each row.",
        )
    kind = ARROW_TYPES[column.type]
    if column.width is not None:
        matrix = value.reshape(rows, -1)
        flat = _cast(matrix.reshape(-1), kind)
        return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1]).cast(pa.list_(kind))
    if value.ndim == 2 and value.shape[1] == 1:
        value = value[:, 0]
    if value.ndim != 1:
        raise CheckError(
            f"The model returned {value.shape[1:]} values a row of {column.name!r}, declared as one {column.type}.",
            remedy=f"Log it with a signature that says so, or pass result_type='array<{column.type}>'.",
        )
    return _cast(np.ascontiguousarray(value), kind)


def _cast(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    array = pa.array(values)
    if array.type == kind:
        return array
    try:
        return array.cast(kind)
    except pa.ArrowInvalid as error:
        raise InputError(f"The model returned {array.type}, which does not fit {kind}: {error}.") from None


def _bound_threads() -> None:
    # One task runs on one core, so a library that starts a thread for each core of the machine only gets in its way.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


class _Onnx:
    def __init__(self, spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> None:
        import onnxruntime

        self._session = onnx_session(onnxruntime, payload(), spec.options)
        self._spec = spec
        self._feeds: list[tuple[str, str, int]] = [tuple(feed) for feed in spec.options["feeds"]]
        self._names: list[str] = list(spec.options["fetches"])

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        matrix = to_matrix(arrays, self._spec.inputs, self._spec.width, self._spec.dtype)
        rows = len(matrix)
        if rows <= _ROWS_PER_CALL:
            return self._session.run(self._names, self._feed(matrix))
        parts = [
            self._session.run(self._names, self._feed(matrix[first : first + _ROWS_PER_CALL]))
            for first in range(0, rows, _ROWS_PER_CALL)
        ]
        return [np.concatenate([part[i] for part in parts]) for i in range(len(self._names))]

    def _feed(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        if len(self._feeds) == 1:
            return {self._feeds[0][0]: matrix}
        return {
            name: np.ascontiguousarray(matrix[:, i : i + 1] if rank == 2 else matrix[:, i]).astype(dtype, copy=False)
            for i, (name, dtype, rank) in enumerate(self._feeds)
        }


def onnx_session(onnxruntime: Any, model: bytes, options: Mapping[str, Any]) -> Any:
    """An ONNX Runtime session with one thread, quiet, with the providers that the model was logged with."""
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = 3
    for key, value in options.get("session_config", {}).items():
        session_options.add_session_config_entry(key, str(value))
    providers = [name for name in options.get("providers", ()) if name in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(model, session_options, providers=providers or ["CPUExecutionProvider"])


class _LightGbm:
    def __init__(self, spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> None:
        import lightgbm

        self._booster = lightgbm.Booster(model_str=payload().decode())
        self._spec = spec

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        matrix = to_matrix(arrays, self._spec.inputs, self._spec.width, self._spec.dtype)
        return [np.asarray(self._booster.predict(matrix, num_threads=1))]


class _Torch:
    def __init__(self, spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._module = torch.export.load(io.BytesIO(payload())).module()
        self._spec = spec

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        matrix = to_matrix(arrays, self._spec.inputs, self._spec.width, self._spec.dtype)
        with self._torch.inference_mode():
            # The Arrow buffer is read-only and torch does not write into its input here.
            result = self._module(self._torch.from_numpy(matrix if matrix.flags.writeable else matrix.copy()))
        results = result if isinstance(result, (tuple, list)) else (result,)
        return [tensor.numpy() for tensor in results]


class _PyFunc:
    def __init__(self, spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> None:
        import mlflow.pyfunc

        path = unpack(payload, Path(folder()), spec.checksum)
        config = dict(spec.model_config) if spec.model_config is not None else None
        self._model = mlflow.pyfunc.load_model(str(path), model_config=config)
        self._spec = spec
        if "torch" in sys.modules:
            import torch

            torch.set_num_threads(1)

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        if self._spec.options.get("tensor"):
            data: Any = to_matrix(arrays, self._spec.inputs, self._spec.width, self._spec.dtype)
        else:
            data = to_frame(arrays, self._spec.inputs)
        return _as_columns(self._model.predict(data), self._spec)


def _as_columns(result: Any, spec: KernelSpec) -> list[np.ndarray]:
    """The outputs of a pyfunc, whatever it returned, in the order of the spec."""
    names = [column.name for column in spec.outputs]
    if hasattr(result, "columns"):
        if set(names) <= set(result.columns):
            return [_plain(result[name].to_numpy()) for name in names]
        if len(names) == 1 and spec.outputs[0].width is not None:
            return [_plain(result.to_numpy())]
        values = [_plain(result.iloc[:, i].to_numpy()) for i in range(result.shape[1])]
    elif isinstance(result, Mapping):
        values = [_plain(np.asarray(result[name])) for name in names if name in result] or [
            _plain(np.asarray(value)) for value in result.values()
        ]
    else:
        array = _plain(np.asarray(result))
        split = spec.shape == "struct" and array.ndim == 2
        values = [array[:, i] for i in range(array.shape[1])] if split else [array]
    if len(values) != len(names):
        raise CheckError(
            f"The model returned {len(values)} outputs, and {len(names)} are declared: {', '.join(names)}.",
            remedy="Mend the signature that it was logged with, or the result_type.",
        )
    return values


def _plain(values: np.ndarray) -> np.ndarray:
    """A column of lists (one array a row) as a matrix; everything else as it is."""
    if values.dtype == object and len(values) and isinstance(values[0], (list, tuple, np.ndarray)):
        return np.stack([np.asarray(value) for value in values])
    return values


def unpack(payload: Callable[[], bytes], folder: Path, checksum: str) -> Path:
    """The model's folder on this machine; whoever comes first unpacks it, the others find it whole."""
    target = folder / f"model-{checksum}"
    if not target.is_dir():
        draft = folder / f".model-{checksum}-{os.getpid()}"
        with zipfile.ZipFile(io.BytesIO(payload())) as archive:
            archive.extractall(draft)
        try:
            draft.rename(target)
        except OSError:
            # Another worker was faster; a folder cannot be renamed onto one that is not empty.
            assert target.is_dir()
            import shutil

            shutil.rmtree(draft)
    return target


_LOADERS: dict[str, Callable[[KernelSpec, Callable[[], bytes], Callable[[], str]], Kernel]] = {
    "onnx": _Onnx,
    "lightgbm": _LightGbm,
    "torch": _Torch,
    "pyfunc": _PyFunc,
}
