"""Rows of a training table at a Delta version, and the baseline's score of them."""

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forecache.errors import InputError
from forecache.lake.delta.tables import open_table
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
    """One split of a training table at a version, with the pipeline's features or those named, in a fixed order.

    Raises:
        NotFoundError: No such table or version.
        InputError: A feature is missing from it, or the split is empty.
    """
    names = features or pipeline.features.names
    delta = open_table(settings, table, version=version)
    missing = set(names) - {field.name for field in delta.schema().fields}
    if missing:
        raise InputError(
            f"The table {table!r} has no column {min(missing)!r} at version {version}.",
            remedy="A model can only be judged on rows that have the features it was trained on.",
        )
    columns = [*pipeline.key, AS_OF, *names, pipeline.label.name]
    rows: pa.Table = delta.to_pyarrow_table(columns=columns, filters=[("split", "=", split)])
    if not rows.num_rows:
        raise InputError(f"The split {split!r} of {table!r} is empty at version {version}.")
    rows = rows.sort_by([(name, "ascending") for name in (*pipeline.key, AS_OF)])
    matrix = np.empty((rows.num_rows, len(names)), dtype=np.float32)
    for position, name in enumerate(names):
        matrix[:, position] = rows.column(name).to_numpy()
    label = rows.column(pipeline.label.name).to_numpy().astype(np.float64)
    return Examples(matrix, label, tuple(rows.column(AS_OF).to_pylist()))


def baseline_score(pipeline: Pipeline, features: NDArray[np.float32]) -> Array:
    """The baseline's score of each row: its feature times its scale, the median where the feature is unknown."""
    baseline = pipeline.gate.baseline
    values = features[:, pipeline.features.names.index(baseline.feature)].astype(np.float64) * baseline.scale
    unknown = np.isnan(values)
    if unknown.all():
        return np.zeros_like(values)
    values[unknown] = np.median(values[~unknown])
    return values


def baseline_metrics(pipeline: Pipeline, examples: Examples) -> dict[str, float]:
    """The baseline's metrics; a feature is no probability, so for a binary label only those of ranking."""
    values = metrics_of(pipeline.label.kind, examples.label, baseline_score(pipeline, examples.features))
    if pipeline.label.kind == "binary":
        return {name: value for name, value in values.items() if name in RANKING}
    return values
