"""Realised performance: predictions of a night against the labels that became known a horizon later."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from forecache.lake.delta.tables import read_table
from forecache.lake.features import partition_rows
from forecache.lake.training_set import label_frame
from forecache.monitoring.drift.findings import TEST_SPLIT
from forecache.monitoring.table import Measurement
from forecache.pipeline import AS_OF, Pipeline
from forecache.registry.gate.bootstrap import metric_interval
from forecache.registry.gate.metrics import BINARY, REGRESSION, Array, gain
from forecache.registry.versions.models import ModelVersion
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_MOST_ROWS = 200_000
_EPOCH = date(1970, 1, 1)


def labelled_predictions(
    spark: "SparkSession", settings: Settings, pipeline: Pipeline, as_of: Sequence[date]
) -> dict[date, tuple[Array, Array]]:
    """Label and score, float64 [n] each, of the predictions of some nights whose label horizon has passed.

    Rows are in the order of score and label. Of nights with more than 200,000, that many or fewer, chosen by a hash of
    the key. A night without a labelled prediction is left out.
    """
    from pyspark.sql import functions as F

    rows = partition_rows(settings, pipeline.prediction_table, as_of)
    step = -(-max(rows.values()) // _MOST_ROWS) or 1
    entity, output, label = [*pipeline.key, AS_OF], pipeline.main_output.name, pipeline.trained_label.name
    predicted = read_table(spark, settings, pipeline.prediction_table).where(F.col(AS_OF).isin(list(as_of)))
    predicted = predicted.where(F.pmod(F.xxhash64(*pipeline.key), F.lit(step)) == 0).select(
        *entity, F.col(output).alias("_score")
    )
    labels = label_frame(spark, settings, pipeline, predicted.select(*entity), as_of)
    joined = predicted.join(labels, entity).select(AS_OF, F.col(label).alias("_label"), "_score")
    table = joined.where(F.col("_label").isNotNull() & F.col("_score").isNotNull()).toArrow()
    days = table.column(AS_OF).cast("int32").to_numpy()
    both = [table.column(name).to_numpy().astype(np.float64) for name in ("_label", "_score")]
    found = {}
    for day in as_of:
        labels_of_day, scores = (values[days == (day - _EPOCH).days] for values in both)
        order = np.lexsort((labels_of_day, scores))
        if len(order):
            found[day] = (labels_of_day[order], scores[order])
    return found


def performance(
    pipeline: Pipeline, model: ModelVersion, as_of: date, label: Array, score: Array, *, night: date, run_id: str = ""
) -> Measurement | None:
    """How much worse the gate's metric is than the one recorded for the model on its test split.

    The interval is that of the night's rows; the test split's metric counts as known.

    Args:
        night: The first as-of date by which the labels are known.

    Returns:
        None where the metric has no value on these rows, such as an area under the curve of one class.
    """
    metric = pipeline.trained_gate.metric
    value = {**BINARY, **REGRESSION}[metric](label, score)
    if np.isnan(value):
        return None
    expected = model.metrics[metric]
    ends = metric_interval(metric, label, score, seed=pipeline.training.seed)
    low, high = sorted(-gain(metric, end, expected) for end in ends)
    return Measurement(
        pipeline=pipeline.name,
        night=night,
        as_of=as_of,
        kind="performance",
        name=metric,
        reference=TEST_SPLIT,
        model_version=model.version,
        effect=-gain(metric, value, expected),
        effect_low=low,
        effect_high=high,
        value=value,
        reference_value=expected,
        rows=len(label),
        run_id=run_id,
    )
