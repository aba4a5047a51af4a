"""The runtimes that score a model: each loads it from bytes and turns Arrow arrays into numpy arrays.

A runtime's library is imported when a model that needs it is loaded, and no other. Every one runs on a single thread.
"""

import io
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from forecache.errors import CheckError
from forecache.inference.arrays import fitted, in_blocks, to_frame, to_matrix
from forecache.inference.kernel_spec import ALLOW_PICKLE, KernelSpec
from forecache.inference.runtimes.estimators import load_estimator
from forecache.inference.runtimes.exported import load_exported

# Rows per call of a compiled runtime: intermediate layers stay in the second-level cache.
_ROWS_PER_CALL = 4096
_LISTS = (list, tuple, np.ndarray)


class Kernel(Protocol):
    """A loaded model."""

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        """One numpy array of n rows for each output of the spec."""


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
            name: fitted(np.ascontiguousarray(matrix[:, i : i + 1] if rank == 2 else matrix[:, i]), dtype, name)
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


class _Estimator:
    def __init__(self, spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> None:
        self._predict = load_estimator(spec.engine, payload())
        self._spec = spec

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        matrix = to_matrix(arrays, self._spec.inputs, self._spec.width, self._spec.dtype)
        return [self._predict(matrix)]


class _Torch:
    def __init__(self, spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._module = load_exported(payload())
        self._spec = spec

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        matrix = to_matrix(arrays, self._spec.inputs, self._spec.width, self._spec.dtype)
        with self._torch.inference_mode():
            return in_blocks(matrix, self._run_block)

    def _run_block(self, block: np.ndarray) -> list[np.ndarray]:
        # The Arrow buffer is read-only and torch does not write into its input here.
        result = self._module(self._torch.from_numpy(block if block.flags.writeable else block.copy()))
        results = result if isinstance(result, (tuple, list)) else (result,)
        return [tensor.numpy() for tensor in results]


class _PyFunc:
    def __init__(self, spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> None:
        if spec.options.get("allow_pickle") is not None:
            os.environ[ALLOW_PICKLE] = spec.options["allow_pickle"]
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
            spec = self._spec
            data = to_frame(arrays, spec.inputs, types=spec.input_types, optional=spec.optional)
        return as_columns(self._model.predict(data), self._spec)


def as_columns(result: Any, spec: KernelSpec) -> list[np.ndarray]:
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
        array = _plain(_as_array(result))
        split = spec.shape == "struct" and array.ndim == 2
        values = [array[:, i] for i in range(array.shape[1])] if split else [array]
    if len(values) != len(names):
        raise CheckError(
            f"The model returned {len(values)} outputs, and {len(names)} are declared: {', '.join(names)}.",
            remedy="Mend the signature that it was logged with, or the result_type.",
        )
    return values


def _as_array(result: Any) -> np.ndarray:
    """What a model returned; of rows with lists, which may differ in length, an array of these lists."""
    if isinstance(result, list) and result and isinstance(result[0], _LISTS):
        rows = np.empty(len(result), object)
        for position, row in enumerate(result):
            rows[position] = row
        return rows
    return np.asarray(result)


def _plain(values: np.ndarray) -> np.ndarray:
    """A column of lists as a matrix where all are of one length; everything else as it is."""
    if values.dtype != object or not len(values) or not isinstance(values[0], _LISTS):
        return values
    if all(isinstance(value, _LISTS) and len(value) == len(values[0]) for value in values):
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


Loader = Callable[[KernelSpec, Callable[[], bytes], Callable[[], str]], Kernel]

LOADERS: dict[str, Loader] = {
    "onnx": _Onnx,
    **dict.fromkeys(("lightgbm", "xgboost", "sklearn"), _Estimator),
    "torch": _Torch,
    "pyfunc": _PyFunc,
}
