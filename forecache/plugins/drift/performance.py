"""Realised performance: compares predictions of an as-of date with the labels that became known a horizon later."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.settings import Settings
from forecache.declare import AS_OF, Pipeline
from forecache.kit.delta.tables import read_table
from forecache.lake.contracts import class_order
from forecache.lake.split_rows import label_numbers
from forecache.lake.stage import partition_rows
from forecache.lake.training_set import label_frame
from forecache.models.registry.gate.gate_checks import metric_interval
from forecache.models.registry.gate.metric_judge import judge_of
from forecache.models.registry.gate.score_metrics import Array
from forecache.models.registry.model_versions import ModelVersion
from forecache.plugins.drift.distributions.drift_report import TEST_SPLIT
from forecache.plugins.drift.measurements import Measurement

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_MOST_ROWS = 200_000
_EPOCH = date(1970, 1, 1)
Labelled = tuple[Array, Array, Array | None]


def labelled_predictions(
    spark: "SparkSession", settings: Settings, pipeline: Pipeline, as_of: Sequence[date]
) -> dict[date, Labelled]:
    """Read label, float64 [n], score, [n] or [n, values], and weight, [n] or None, of the predictions of some dates.

    The label horizon of the dates has passed. A class that the model of a row does not know has the probability 0. Rows
    are sorted by score and label; of more than 200,000 rows, at most so many are chosen by a hash of the key. Dates
    without labelled predictions are left out, and all dates if the probabilities of some classes are not stored.
    """
    from pyspark.sql import functions as F

    rows = partition_rows(settings, pipeline.prediction_table, as_of, column=AS_OF)
    step = -(-max(rows.values()) // _MOST_ROWS) or 1
    entity, spec = [*pipeline.key, AS_OF], pipeline.output_specs[0]
    if spec.top is not None:
        return {}  # the probabilities of some classes are missing
    columns = spec.columns[1:] if spec.kind == "classes" else spec.columns
    predicted = read_table(spark, settings, pipeline.prediction_table).where(F.col(AS_OF).isin(list(as_of)))
    predicted = predicted.where(F.pmod(F.xxhash64(*pipeline.key), F.lit(step)) == 0).select(
        *entity, *(F.col(column).alias(f"_score_{i}") for i, column in enumerate(columns))
    )
    labels = label_frame(spark, settings, pipeline, predicted.select(*entity), as_of)
    named = [F.col(name).alias(f"_label_{i}") for i, name in enumerate(pipeline.trained_label.columns)]
    joined = predicted.join(labels, entity).select(AS_OF, *named, *predicted.columns[len(entity) :])
    table = joined.dropna().toArrow().combine_chunks()
    days = table.column(AS_OF).cast("int32").to_numpy()
    found = {}
    for day in as_of:
        rows_of_day = table.filter(pa.array(days == (day - _EPOCH).days))
        if rows_of_day.num_rows:
            found[day] = _sort_rows(_to_arrays(rows_of_day, spec.kind == "classes", spec.classes))
    return found


def _to_arrays(table: pa.Table, classes: bool, declared: Sequence[str] = ()) -> Labelled:
    """Convert a table with the columns `_label_0`, perhaps `_label_1`, `_score_0` and further scores to arrays.

    Classes have their positions in the model, on which a user's metric may depend; those that no model knows follow.
    """
    weight = table.column("_label_1").to_numpy().astype(np.float64) if "_label_1" in table.column_names else None
    names = [name for name in table.column_names if name.startswith("_score_")]
    if not classes:
        score = np.column_stack([table.column(name).to_numpy().astype(np.float64) for name in names])
        return table.column("_label_0").to_numpy().astype(np.float64), score if len(names) > 1 else score[:, 0], weight
    lists = table.column("_score_0").combine_chunks()
    labels, items = table.column("_label_0").combine_chunks(), lists.flatten()
    known = list(declared)
    for names in (items.field("class"), labels):
        known += class_order([name for name in pc.unique(names).to_pylist() if name not in known])
    shares = np.zeros((len(labels), len(known)))
    row = np.repeat(np.arange(len(labels)), pc.list_value_length(lists).to_numpy())
    shares[row, label_numbers(items.field("class"), known).astype(np.int64)] = items.field("probability").to_numpy()
    return label_numbers(labels, known), shares, weight


def _sort_rows(found: Labelled) -> Labelled:
    label, score, weight = found
    keys = [label, *(score.reshape(len(label), -1).T[::-1])]
    order = np.lexsort(keys if weight is None else [weight, *keys])
    return label[order], score[order], None if weight is None else weight[order]


def measure_performance(
    pipeline: Pipeline,
    model: ModelVersion,
    as_of: date,
    label: Array,
    score: Array,
    weight: Array | None = None,
    *,
    night: date,
    run_id: str = "",
) -> Measurement | None:
    """Measure how much worse the gate's metric is than the model's recorded one on its test split.

    The interval reflects the sampling of the date's rows; the test split's metric counts as exact. `night` is the first
    as-of date by which the labels are known. None if the metric has no value on these rows, such as an area under the
    curve of one class.
    """
    metric, judge = pipeline.trained_gate.metric, judge_of(pipeline)
    value = judge.metrics[metric](label, score, weight)
    if np.isnan(value):
        return None
    expected = model.metrics[metric]
    ends = metric_interval(judge, metric, label, score, weight, seed=pipeline.training.seed)
    low, high = sorted(-judge.gain(metric, end, expected) for end in ends)
    return Measurement(
        pipeline=pipeline.name,
        night=night,
        as_of=as_of,
        kind="performance",
        name=metric,
        reference=TEST_SPLIT,
        model_version=model.version,
        effect=-judge.gain(metric, value, expected),
        effect_low=low,
        effect_high=high,
        value=value,
        reference_value=expected,
        rows=len(label),
        run_id=run_id,
    )
