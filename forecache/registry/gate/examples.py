"""Rows of a training table at a Delta version, and the baseline's scores for them."""

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forecache.errors import InputError
from forecache.lake.splits import open_with_columns
from forecache.pipeline import AS_OF, Pipeline
from forecache.registry.gate.metrics import RANKING, Array, metrics_of
from forecache.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Examples:
    """Rows of one split: `features` float32 [n, num_features] with NaN for null, `label` float64 [n]."""

    features: NDArray[np.float32]
    label: Array
    as_of: tuple[date, ...]


def read_examples(
    settings: Settings, pipeline: Pipeline, *, table: str, version: int, split: str, features: tuple[str, ...] = ()
) -> Examples:
    """One split of a training table at a version, in a fixed order, with `features` or else the pipeline's features.

    Raises:
        NotFoundError: The table or the version does not exist.
        InputError: The table lacks a feature, or the split is empty.
    """
    names = features or pipeline.feature_names
    delta = open_with_columns(settings, table, names, version=version)
    columns = [*pipeline.key, AS_OF, *names, pipeline.trained_label.name]
    rows: pa.Table = delta.to_pyarrow_table(columns=columns, filters=[("split", "=", split)])
    if not rows.num_rows:
        raise InputError(f"The split {split!r} of {table!r} is empty at version {version}.")
    rows = rows.sort_by([(name, "ascending") for name in (*pipeline.key, AS_OF)])
    matrix = np.empty((rows.num_rows, len(names)), dtype=np.float32)
    for position, name in enumerate(names):
        matrix[:, position] = rows.column(name).to_numpy()
    label = rows.column(pipeline.trained_label.name).to_numpy().astype(np.float64)
    return Examples(matrix, label, tuple(rows.column(AS_OF).to_pylist()))


def baseline_score(pipeline: Pipeline, features: NDArray[np.float32]) -> Array:
    """The baseline's scores, float64 [n]: its feature times its scale, with the median in place of NaN."""
    baseline = pipeline.trained_gate.baseline
    values = features[:, pipeline.feature_names.index(baseline.feature)].astype(np.float64) * baseline.scale
    unknown = np.isnan(values)
    if unknown.all():
        return np.zeros_like(values)
    values[unknown] = np.median(values[~unknown])
    return values


def baseline_metrics(pipeline: Pipeline, examples: Examples) -> dict[str, float]:
    """The baseline's metrics by name; for a binary label only ranking metrics, as a feature is not a probability."""
    values = metrics_of(pipeline.trained_label.kind, examples.label, baseline_score(pipeline, examples.features))
    if pipeline.trained_label.kind == "binary":
        return {name: value for name, value in values.items() if name in RANKING}
    return values
