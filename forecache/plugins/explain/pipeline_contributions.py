"""Contributions of features to a published prediction: Shapley values against rows of the same as-of date."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.settings import Settings
from forecache.base.table_names import AS_OF
from forecache.declare import Pipeline
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.models.inference.kernel import load_kernel, score_values
from forecache.models.inference.outputs import known_outputs
from forecache.models.registry.applied.pipeline_models import model_of
from forecache.models.registry.applied.scoring_plan import plan_model
from forecache.models.tracking.artifacts import scratch_folder
from forecache.plugins.explain.contributions import compute_shapley

_MOST_READ, _BACKGROUND, _PERMUTATIONS = 8_192, 64, 512


def explain_prediction(
    settings: Settings,
    pipeline: Pipeline,
    model_version: int,
    feature_table: str,
    feature_version: int,
    night: date,
    row: Mapping[str, Any],
) -> dict[str, Any]:
    """The contribution of each feature to the first output of a prediction; or `missing`, the reason for none.

    Of quantiles, it is to the one nearest to the median.

    Args:
        row: The row of the feature table that was scored.

    Raises:
        ForecacheError: The model or the table of that version cannot be read.
    """
    plan = plan_model(settings, pipeline, model_of(settings, pipeline, model_version))
    names = list(plan.spec.inputs or pipeline.feature_names)
    (output,) = known_outputs(pipeline.output_specs[:1], plan.spec)
    if output.kind not in ("number", "quantiles"):
        return {"missing": f"contributions are of numbers and quantiles, and {output.name} is of {output.kind}"}
    column = output.judged_column
    if any(not isinstance(row[name], (int, float, bool, type(None))) for name in names):
        return {"missing": "contributions are of numeric features, and this model has others"}
    table = open_dataset(open_table(settings, feature_table, version=feature_version))
    background = _matrix(table.head(_MOST_READ, columns=names, filter=pc.field(AS_OF) == pa.scalar(night)))
    chosen = background[np.unique(np.linspace(0, len(background) - 1, _BACKGROUND).astype(int))]
    kernel = load_kernel(plan.spec, lambda: plan.payload, scratch_folder)

    def score(matrix: np.ndarray) -> np.ndarray:
        columns = [pa.array(matrix[:, place]) for place in range(matrix.shape[1])]
        values = score_values(kernel, plan.spec, columns, [output])[0].astype(np.float64)
        return values if output.kind == "number" else values[:, output.columns.index(column)]

    own = _matrix(pa.table({name: pa.array([row[name]], pa.float64()) for name in names}))[0]
    found = compute_shapley(score, own, chosen, described=f"{len(chosen)} rows of {night}", permutations=_PERMUTATIONS)
    features = [
        {"name": name, "value": row[name], "contribution": float(value)}
        for name, value in zip(names, found.values, strict=True)
    ]
    return {
        "output": column,
        "method": found.method,
        "background": found.background,
        "base": found.base,
        "sum": found.total,
        "features": sorted(features, key=lambda each: -abs(float(each["contribution"]))),
    }


def _matrix(rows: pa.Table) -> np.ndarray:
    """Columns as float32 [n, columns]; NaN for a null."""
    columns = [column.cast(pa.float64()).to_numpy(zero_copy_only=False) for column in rows.columns]
    return np.column_stack(columns).astype(np.float32)
