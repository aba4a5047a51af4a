"""A registered model as a function from features to scores, run by the same kernel as in scoring."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecache.inference.arrays import from_numpy
from forecache.inference.choose_runtime import plan_scoring
from forecache.inference.kernel import load_kernel
from forecache.inference.kernel_spec import KernelSpec
from forecache.inference.outputs import score_values
from forecache.inference.runtimes.runtime import Kernel
from forecache.pipeline import Output
from forecache.registry.gate.metrics import Array
from forecache.tracking.scratch import scratch_folder

_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to score.

    Attributes:
        kernel, spec: The same as in scoring: runtime, session options, bounds and casts.
        output: Name of the output to score.
        size_bytes: Size of what a scoring worker loads.
    """

    kernel: Kernel
    spec: KernelSpec
    output: str
    size_bytes: int

    def inputs(self, features: Sequence[str]) -> tuple[str, ...]:
        """The model's input columns in its order; `features` if its signature names none."""
        return self.spec.inputs or tuple(features)

    def predict(self, features: NDArray[np.float32]) -> NDArray[Any]:
        """Scores [n] for features float32 [n, num_features], NaN for unknown, the columns in the model's order."""
        columns = [from_numpy(np.ascontiguousarray(features[:, i])) for i in range(features.shape[1])]
        return score_values(self.kernel, self.spec, columns, self.output)


def open_model(folder: Path, output: Output) -> LoadedModel:
    """Load the model in an MLflow model folder.

    Args:
        output: The declared output, with its limits; the model's first output is used if none has that name.

    Raises:
        NotFoundError: The folder has no MLflow model.
        InputError: The model needs another version of its inference package than the one installed.
    """
    plan = plan_scoring(str(folder), bounds=output.limits)
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as unpacked:
        kernel = load_kernel(plan.spec, lambda: plan.payload, lambda: unpacked)
    names = [column.name for column in plan.spec.outputs]
    return LoadedModel(kernel, plan.spec, output.name if output.name in names else names[0], len(plan.payload))


def score(model: LoadedModel, features: NDArray[np.float32]) -> Array:
    """The model's output, float64 [n], for features float32 [n, num_features]."""
    parts = [model.predict(features[start : start + _BATCH_ROWS]) for start in range(0, len(features), _BATCH_ROWS)]
    return np.concatenate(parts).astype(np.float64)
