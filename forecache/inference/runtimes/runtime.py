"""What a runtime is: whether it can run a stored model, what workers get of the model, and how they load it.

A runtime's library is imported when a model that needs it is packed or loaded, and no other. Every one runs on a single
thread.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from forecache.inference.arrays import fitted, require_width, to_columns, to_matrix
from forecache.inference.encoding import encoding_in
from forecache.inference.kernel_spec import KernelSpec, OutputColumn
from forecache.inference.signature import Signature

Predict = Callable[[np.ndarray], np.ndarray]
"""[n, num_features] with NaN for unknown -> [n], or [n, values] where a model returns several a row."""


class Kernel(Protocol):
    """A loaded model."""

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        """One numpy array of n rows for each output of the spec."""

    def run_matrix(self, matrix: np.ndarray) -> list[np.ndarray]:
        """The same of float32 [n, num_features], NaN for unknown, where all features are numbers: equal to the bit."""


Load = Callable[[KernelSpec, Callable[[], bytes], Callable[[], str]], Kernel]


@dataclass(frozen=True)
class StoredModel:
    """A model in its MLflow folder.

    Attributes:
        flavours: Each flavour's own settings, by its name.
        metadata: What whoever logged the model added.
        outputs: What it is to return.
    """

    path: Path
    flavours: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, Any]
    signature: Signature
    outputs: tuple[OutputColumn, ...]


@dataclass(frozen=True)
class Packed:
    """A model as workers get it.

    Attributes:
        spec: The kernel's spec; its shape, outputs, packages and checksum are filled in later.
        payload: The bytes that workers load.
        reason: Why this runtime; empty for the one that takes what all others refuse.
    """

    spec: KernelSpec
    payload: bytes
    reason: str


@dataclass(frozen=True)
class Runtime:
    """A library that runs models.

    Attributes:
        flavour: The MLflow flavour that a model needs.
        packages: Whose versions decide what it computes.
        pack: The packed model; or why the runtime cannot run it, with the model as the sentence's subject.
        load: The model in this process, from the spec, a function that returns the payload, and one that returns a
            folder of this machine into which an archive may be unpacked.
        generic: It runs what MLflow loads, whatever the inputs; of its packages those decide that the model requires.
    """

    name: str
    flavour: str
    packages: tuple[str, ...]
    pack: "Callable[[StoredModel], Packed | str]"
    load: Load
    generic: bool = False


class MatrixKernel:
    """A model that takes one matrix [n, num_features] of the spec's dtype; its encoding may make it."""

    def __init__(self, spec: KernelSpec, run: Callable[[np.ndarray], list[np.ndarray]]) -> None:
        self._spec, self._run, self._encoding = spec, run, encoding_in(spec.options)
        self._dtype = np.dtype(spec.dtype)

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        if self._encoding is not None:
            return self._run(self._encoding.matrix(to_columns(arrays, self._spec.inputs)))
        return self._run(to_matrix(arrays, self._spec.inputs, self._spec.width, self._spec.dtype))

    def run_matrix(self, matrix: np.ndarray) -> list[np.ndarray]:
        assert self._encoding is None, "a model with features that are no numbers takes no matrix"
        require_width(matrix, self._spec.width)
        return self._run(matrix if matrix.dtype == self._dtype else fitted(matrix, self._dtype, "of features"))


def estimator_kernel(load: Callable[[bytes], Predict]) -> Callable[[KernelSpec, Callable[[], bytes], Any], Kernel]:
    """`Runtime.load` of an estimator with one output, from the function that makes it of its file."""

    def load_kernel(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
        predict = load(payload())
        return MatrixKernel(spec, lambda matrix: [predict(matrix)])

    return load_kernel


def new_spec(runtime: str, signature: Signature, dtype: str, options: Mapping[str, Any]) -> KernelSpec:
    """A spec for `Packed`."""
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
