"""A registered model as a function from features to scores, run by the same kernel as in scoring."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecache.base.output_kinds import OutputSpec
from forecache.models.inference.choose_runtime import plan_scoring
from forecache.models.inference.encoding import ENCODING, MatrixEncoding, find_encoding
from forecache.models.inference.kernel import load_kernel
from forecache.models.inference.kernel_spec import KernelSpec
from forecache.models.inference.outputs import known_outputs, returned_values, source_of
from forecache.models.inference.runtimes.runtime import Kernel
from forecache.models.registry.gate.score_metrics import Array, map_classes
from forecache.models.tracking.artifacts import scratch_folder

_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class CandidateModel:
    """A model that is ready to score.

    Attributes:
        kernel, spec: The same as in scoring: runtime, session options, bounds and casts.
        output: The output to score, with the classes that the model knows.
        size_bytes: Size of the model that a scoring worker loads.
        encoding: Encoding of features that are not all numbers; this kernel takes the encoded matrix.
    """

    kernel: Kernel
    spec: KernelSpec
    output: OutputSpec
    size_bytes: int
    encoding: MatrixEncoding | None = None

    @property
    def output_name(self) -> str:
        """The output's name in the model itself."""
        return self.spec.outputs[source_of(self.spec, self.output)[0]].name

    def input_names(self, features: Sequence[str]) -> tuple[str, ...]:
        """The model's features in its order; `features` if its signature names none."""
        return self.encoding.names if self.encoding else self.spec.inputs or tuple(features)

    def predict(self, features: NDArray[np.float32]) -> NDArray[Any]:
        """Scores for features float32 [n, num_features], NaN for unknown, the columns in the model's order.

        Returns:
            Numbers [n], probabilities of classes [n, classes], or quantiles [n, levels].
        """
        # A copy, as a model may write into its input. A matrix, as requests are scored one by one: each of thousands
        # would become as many Arrow arrays as there are features.
        returned = self.kernel.run_matrix(np.array(features, np.float32, order="C"))
        return returned_values(self.spec, returned, len(features), [self.output])[0]


def open_model(folder: Path, output: OutputSpec) -> CandidateModel:
    """Load the model in an MLflow model folder.

    Args:
        output: The declared output, with its bounds; a model's only output is used, whatever it is called.

    Raises:
        NotFoundError: The folder has no MLflow model.
        InputError: The model needs another version of its inference package than the one installed, has several outputs
            and none of that name, or knows other classes.
    """
    plan = plan_scoring(str(folder), outputs=[output])
    encoding = find_encoding(plan.spec.options)
    spec = plan.spec if encoding is None else _spec_for_matrix(plan.spec, encoding)
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as unpacked:
        kernel = load_kernel(spec, lambda: plan.payload, lambda: unpacked)
    (known,) = known_outputs([output], spec)
    return CandidateModel(kernel, spec, known, len(plan.payload), encoding)


def _spec_for_matrix(spec: KernelSpec, encoding: MatrixEncoding) -> KernelSpec:
    """The kernel without its encoding step: examples are encoded once, and not for each metric."""
    options = {name: value for name, value in spec.options.items() if name != ENCODING}
    return replace(
        spec, inputs=encoding.columns, width=encoding.width, options=options, checksum=f"{spec.checksum} matrix"
    )


def score_features(
    model: CandidateModel,
    features: NDArray[np.float32],
    classes: Sequence[str] = (),
    sizes: NDArray[np.int64] | None = None,
) -> Array:
    """Scores float64, as `LoadedModel.predict` returns them, for features float32 [n, num_features].

    Args:
        classes: The wanted order of probabilities, if it is not the model's.
        sizes: Number of rows of each request; requests are scored one by one, as in serving.
    """
    ends = np.arange(_BATCH_ROWS, len(features), _BATCH_ROWS) if sizes is None else np.cumsum(sizes)[:-1]
    parts = [model.predict(rows) for rows in np.split(features, ends)]
    scores: Array = np.concatenate(parts).astype(np.float64)
    return map_classes(scores, model.output.classes, classes) if classes else scores
