"""MLflow's Python function: runs every model that no other runtime takes, from an archive of its folder."""

import io
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.base.errors import CheckError, InputError
from forecache.models.inference.arrays import matrix_columns, to_frame, to_matrix
from forecache.models.inference.kernel_spec import ALLOW_PICKLE, KernelSpec, pickle_allowed
from forecache.models.inference.runtimes.runtime import PackedModel, Runtime, StoredModel, new_spec
from forecache.models.inference.runtimes.torch import refuse_code

_LISTS = (list, tuple, np.ndarray)


def _pack(model: StoredModel) -> "PackedModel | str":
    # The workers' own environment was fixed when the JVM started; the driver's current setting counts.
    if not pickle_allowed():
        for program in model.path.rglob("*.pt2"):  # MLflow evaluates their sizes and guards even so
            refuse_code(program.read_bytes())
    tensor = model.signature.tensor
    options = {"tensor": tensor is not None, "allow_pickle": str(pickle_allowed()).lower()}
    return PackedModel(new_spec("pyfunc", model.signature, tensor or "float32", options), _archive(model.path), "")


def _archive(path: Path) -> bytes:
    """The model's folder as a zip archive with fixed dates, so that equal folders give equal bytes."""
    buffer = io.BytesIO()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise InputError(f"The model's folder {path} is empty.", remedy="Log the model again.")
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(str(file.relative_to(path))), file.read_bytes())
    return buffer.getvalue()


class _PyFunc:
    def __init__(self, spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> None:
        if spec.options.get("allow_pickle") is not None:
            os.environ[ALLOW_PICKLE] = spec.options["allow_pickle"]
        import mlflow.pyfunc

        path = _unpack(payload, Path(folder()), spec.checksum)
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
        try:
            returned = self._model.predict(data)
        except Exception as error:
            said = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            raise InputError(
                f"The model failed: {type(error).__name__}: {said}.",
                remedy="It gets the columns of its signature, NaN where a value is unknown: log one that takes them.",
            ) from error
        return as_columns(returned, self._spec)

    def run_matrix(self, matrix: np.ndarray) -> list[np.ndarray]:
        return self.run(matrix_columns(matrix))


def as_columns(result: Any, spec: KernelSpec) -> list[np.ndarray]:
    """The outputs of a pyfunc's result of any type, in the order of the spec."""
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
    """A model's result as an array; rows with lists, which may differ in length, become an array of lists."""
    if isinstance(result, list) and result and isinstance(result[0], _LISTS):
        rows = np.empty(len(result), object)
        for position, row in enumerate(result):
            rows[position] = row
        return rows
    return np.asarray(result)


def _plain(values: np.ndarray) -> np.ndarray:
    """A column of lists as a matrix if all have one length; everything else unchanged."""
    if values.dtype != object or not len(values) or not isinstance(values[0], _LISTS):
        return values
    if all(isinstance(value, _LISTS) and len(value) == len(values[0]) for value in values):
        return np.stack([np.asarray(value) for value in values])
    return values


def _unpack(payload: Callable[[], bytes], folder: Path, checksum: str) -> Path:
    """The model's folder on this machine; the first worker unpacks it, the others find it complete."""
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


RUNTIME = Runtime(
    "pyfunc",
    "python_function",
    ("scikit-learn", "lightgbm", "xgboost", "torch", "catboost"),
    _pack,
    _PyFunc,
    generic=True,
)
