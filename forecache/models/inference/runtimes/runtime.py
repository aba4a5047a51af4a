"""Interface of a runtime: packs a stored model for workers if it can run it, and loads it in a worker.

A runtime's library is imported only when a model that needs it is packed or loaded. Each runs on a single thread.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from forecache.models.inference.arrays import cast_numbers, require_width, to_columns, to_matrix
from forecache.models.inference.encoding import find_encoding
from forecache.models.inference.kernel_spec import KernelSpec, OutputColumn
from forecache.models.inference.signature import Signature

FUNCTION, SQL = "function", "sql"
"""Names of the runtimes of models that are declared as a function or as SQL."""
Predict = Callable[[np.ndarray], np.ndarray]
"""[n, num_features] with NaN for unknown -> [n], or [n, values] if a model returns several a row."""


class Kernel(Protocol):
    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        """One numpy array of n rows for each output of the spec."""

    def run_matrix(self, matrix: np.ndarray) -> list[np.ndarray]:
        """As `run`, to the bit, for float32 [n, num_features] with NaN for unknown, if all features are numbers."""


Load = Callable[[KernelSpec, Callable[[], bytes], Callable[[], str]], Kernel]


@dataclass(frozen=True)
class StoredModel:
    path: Path
    flavours: Mapping[str, Mapping[str, Any]]  # each flavour's own settings, by its name
    metadata: Mapping[str, Any]  # metadata that the model was logged with
    signature: Signature
    outputs: tuple[OutputColumn, ...]  # columns that it is to return


@dataclass(frozen=True)
class PackedModel:
    """A model as it is sent to workers."""

    spec: KernelSpec  # the kernel's spec; its shape, outputs, packages and checksum are filled in later
    payload: bytes  # the bytes that workers load
    reason: str  # reason for this runtime; empty for the one that takes models that all others refuse


@dataclass(frozen=True)
class Runtime:
    """A library that runs models.

    Attributes:
        pack: Returns the packed model, or the reason why the runtime cannot run it, a sentence whose subject is the
            model.
        load: Loads the model in this process, from the spec, a function that returns the payload, and one that returns
            a folder of this machine into which an archive may be unpacked.
        generic: It runs all that MLflow loads, with any inputs; of its packages those count that the model requires.
    """

    name: str
    flavour: str  # the MLflow flavour that a model needs
    packages: tuple[str, ...]  # packages whose versions decide about its values
    pack: "Callable[[StoredModel], PackedModel | str]"
    load: Load
    generic: bool = False


class MatrixKernel:
    """A model that takes one matrix [n, num_features] of the spec's dtype, which its encoding makes, if it has one."""

    def __init__(self, spec: KernelSpec, run: Callable[[np.ndarray], list[np.ndarray]]) -> None:
        self._spec, self._run, self._encoding = spec, run, find_encoding(spec.options)
        self._dtype = np.dtype(spec.dtype)

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        if self._encoding is not None:
            return self._run(self._encoding.matrix(to_columns(arrays, self._spec.inputs)))
        return self._run(to_matrix(arrays, self._spec.inputs, self._spec.width, self._spec.dtype))

    def run_matrix(self, matrix: np.ndarray) -> list[np.ndarray]:
        assert self._encoding is None, "a model with features that are no numbers takes no matrix"
        require_width(matrix, self._spec.width)
        return self._run(matrix if matrix.dtype == self._dtype else cast_numbers(matrix, self._dtype, "of features"))


def estimator_kernel(load: Callable[[bytes], Predict]) -> Callable[[KernelSpec, Callable[[], bytes], Any], Kernel]:
    """`Runtime.load` of an estimator with one output, from the function that loads its file."""

    def load_kernel(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
        predict = load(payload())
        return MatrixKernel(spec, lambda matrix: [predict(matrix)])

    return load_kernel


def new_spec(runtime: str, signature: Signature, dtype: str, options: Mapping[str, Any]) -> KernelSpec:
    return KernelSpec(
        runtime,
        "",
        signature.inputs,
        signature.width,
        dtype,
        (),
        "scalar",
        options,
        input_types=signature.input_types if signature.inputs else (),
        optional=signature.optional,
    )
