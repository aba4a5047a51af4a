"""The monitoring stage: measures as-of dates, once for the same inputs, and appends figures to the monitoring table.

Realised performance compares predictions with the labels that became known a horizon later.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.spark_hashes import xxhash64
from forecache.declare import AS_OF, Pipeline
from forecache.declare.code.fingerprint import fingerprint
from forecache.kit.delta.dataset import open_dataset, read_few_ahead
from forecache.kit.delta.tables import open_table, read_table, table_exists, table_version
from forecache.lake.arrow_rows import label_rows, load_table
from forecache.lake.contracts import class_order
from forecache.lake.engine import Engine, decide_engine, find_spark_functions
from forecache.lake.ledger import StageRecord, last_records
from forecache.lake.query import quote_name, scratch_database
from forecache.lake.sources import Pins, source_states, state_history
from forecache.lake.split_rows import label_numbers
from forecache.lake.stage_runner import Stage, StageOutcome, partition_rows
from forecache.lake.stored_features import RowBatches
from forecache.lake.training_set import label_frame
from forecache.models.registry.gate.gate_checks import metric_interval
from forecache.models.registry.gate.metric_judge import judge_of
from forecache.models.registry.gate.score_metrics import Array
from forecache.models.registry.model_versions import ModelVersion, champion, list_models
from forecache.plugins.drift.expected_performance import class_scores, expected_performance
from forecache.plugins.drift.feature_drift import feature_drift
from forecache.plugins.drift.measurements import MONITORING_TABLE, Measurement, append_measurements, drift_measurement
from forecache.plugins.drift.prediction_drift import TEST_SPLIT, measure_drift
from forecache.scoring.night_inputs import STAGE as SCORE
from forecache.scoring.night_inputs import require_scored
from forecache.scoring.trained_features import find_scored_pipeline

_MOST_ROWS = 200_000
_EPOCH = date(1970, 1, 1)
Labelled = tuple[Array, Array, Array | None]


def labelled_predictions(settings: Settings, pipeline: Pipeline, as_of: Sequence[date]) -> dict[date, Labelled]:
    """Read label, float64 [n], score, [n] or [n, values], and weight, [n] or None, of the predictions of some dates.

    The label horizon of the dates has passed. A class that the model of a row does not know has the probability 0. Rows
    are sorted by score and label; of more than 200,000 rows, at most so many are chosen by a hash of the key. Dates
    without labelled predictions are left out, and all dates if the probabilities of some classes are not stored.
    """
    rows = partition_rows(settings, pipeline.prediction_table, as_of, column=AS_OF)
    step = -(-max(rows.values()) // _MOST_ROWS) or 1
    spec = pipeline.output_specs[0]
    if spec.top is not None:
        return {}  # the probabilities of some classes are missing
    columns = spec.columns[1:] if spec.kind == "classes" else spec.columns
    engine = decide_engine(
        settings, needs_spark=find_spark_functions((), pipeline.trained_label.compute), rows=sum(rows.values())
    )
    join = _join_in_spark if engine.name == "spark" else _join_here
    table = join(engine, pipeline, as_of, columns, step).drop_null().combine_chunks()
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
    return label_numbers(labels, known), class_scores(lists, known), weight


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
        run_date=night,
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


STAGE = "monitoring"


def _join_in_spark(
    engine: Engine, pipeline: Pipeline, as_of: Sequence[date], columns: Sequence[str], step: int
) -> pa.Table:
    """`as_of`, labels and scores of every `step`-th prediction by the hash of its key that has a label."""
    from pyspark.sql import functions as F

    settings, spark, entity = engine.settings, engine.session(), [*pipeline.key, AS_OF]
    predicted = read_table(spark, settings, pipeline.prediction_table).where(F.col(AS_OF).isin(list(as_of)))
    predicted = predicted.where(F.pmod(F.xxhash64(*pipeline.key), F.lit(step)) == 0).select(
        *entity, *(F.col(column).alias(f"_score_{i}") for i, column in enumerate(columns))
    )
    labels = label_frame(spark, settings, pipeline, predicted.select(*entity), as_of)
    named = [F.col(name).alias(f"_label_{i}") for i, name in enumerate(pipeline.trained_label.columns)]
    return predicted.join(labels, entity).select(AS_OF, *named, *predicted.columns[len(entity) :]).toArrow()


def _join_here(
    engine: Engine, pipeline: Pipeline, as_of: Sequence[date], columns: Sequence[str], step: int
) -> pa.Table:
    """The same, without Spark."""
    settings, entity = engine.settings, [*pipeline.key, AS_OF]
    days = [day.isoformat() for day in as_of]
    dataset = open_dataset(open_table(settings, pipeline.prediction_table), partitions=[(AS_OF, "in", days)])
    schema = pa.schema([dataset.schema.field(name) for name in (*entity, *columns)])

    def choose() -> Iterator[pa.RecordBatch]:
        for batch in read_few_ahead(dataset, schema.names):
            hashes = xxhash64([batch.column(name) for name in pipeline.key])
            yield batch.filter(pa.array(hashes % step == 0))

    names = [f"labels.{quote_name(name)} AS _label_{i}" for i, name in enumerate(pipeline.trained_label.columns)]
    names += [f"predicted.{quote_name(name)} AS _score_{i}" for i, name in enumerate(columns)]
    with scratch_database(settings) as connection:
        load_table(connection, "predicted", RowBatches(schema, choose()))
        keys = ", ".join(map(quote_name, entity))
        entities = connection.sql(f"SELECT {keys} FROM predicted").to_arrow_table()
        load_table(connection, "labels", label_rows(settings, pipeline, as_of, entities=entities))
        return connection.sql(
            f"SELECT {AS_OF}, {', '.join(names)} FROM predicted JOIN labels USING ({keys})"
        ).to_arrow_table()


_FORMAT = 2
_NIGHTS_AT_ONCE = 31


@dataclass(frozen=True)
class _MonitoringRun:
    """Inputs that all as-of dates of one call share."""

    settings: Settings
    pipeline: Pipeline
    champion: ModelVersion
    versions: Mapping[int, ModelVersion]
    scored: Mapping[date | None, StageRecord]
    run_id: str


def monitor(
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Measure scored dates: drift, expected performance, and the realised performance of a label horizon before.

    Of the result, `rows` is the number of figures; `details`: `measured` (dates) and, by date, `notes` on what was not
    measured. NotFoundError if there is no champion, or a date has no features or no predictions.
    """
    stage = Stage(settings, STAGE, pipeline.name, run_id)
    versions = {version.version: version for version in list_models(settings, pipeline)}
    scored = last_records(settings, SCORE, pipeline.name)
    run = _MonitoringRun(settings, pipeline, champion(settings, pipeline), versions, scored, run_id)
    inputs = _inputs(run, nights)

    def report_progress(some: Sequence[date], share: float) -> None:
        progress(f"monitoring {pipeline.name} on {some[0]} to {some[-1]}", share)

    known, measured = stage.run_nights(
        inputs, partial(_measure, run), at_once=_NIGHTS_AT_ONCE, progress=report_progress
    )
    return stage.result(
        sum(row.rows for row in known.values()),
        nights=sorted(inputs),
        table=MONITORING_TABLE,
        version=table_version(settings, MONITORING_TABLE) if table_exists(settings, MONITORING_TABLE) else None,
        skipped=not measured,
        details={
            "measured": [night.isoformat() for night in measured],
            "notes": {night.isoformat(): known[night].details["notes"] for night in sorted(known)},
        },
    )


def _inputs(run: _MonitoringRun, nights: Sequence[date]) -> dict[date, str]:
    pins = Pins(run.settings)
    raw = source_states(run.settings, run.pipeline.all_sources, nights, pins=pins)
    inputs = {}
    for night in nights:
        require_scored(run.pipeline, night, run.scored)
        days = [day for day in newly_labelled_dates(run.pipeline, night) if day in run.scored]
        labelled = [_prediction_state(run.scored[day]) for day in days]
        # The state of a date does not cover the days before it, on which labels depend.
        histories = [
            state_history(run.settings, source, min(days) + timedelta(days=1), night, pins=pins)
            for source in (run.pipeline.label_sources if days else ())
        ]
        made_of = run.scored[night].details
        inputs[night] = (
            f"champion={run.champion.version} {made_of['feature_table']}"
            f"@{made_of['feature_version']} {_prediction_state(run.scored[night])} "
            f"labelled={','.join(labelled) or 'none'} {raw[night]}{''.join(histories)} "
            f"{declared_inputs(run.pipeline)}"
        )
    return inputs


def declared_inputs(pipeline: Pipeline) -> str:
    """Return the parts of the declaration that figures depend on; the drift's limits do not change them."""
    gate = pipeline.trained_gate
    own = f" own={fingerprint(metrics=gate.metrics)}" if gate.metrics else ""
    return (
        f"label={pipeline.fingerprints.training_set} metric={gate.metric}{own} "
        f"nights_before={pipeline.drift.last} format={_FORMAT}"
    )


def _prediction_state(scored: StageRecord) -> str:
    return f"{scored.table}@{scored.delta_version}"


def newly_labelled_dates(pipeline: Pipeline, night: date) -> Sequence[date]:
    """Return the as-of dates whose labels are known by an as-of date, and were not by the one before it."""
    horizon, day = timedelta(days=pipeline.trained_label.horizon_days), timedelta(days=1)
    return pipeline.schedule.as_of_dates(
        pipeline.schedule.last_as_of_until(night - day) - horizon + day, night - horizon
    )


def _measure(run: _MonitoringRun, nights: Sequence[date]) -> dict[date, StageOutcome]:
    figures = _measure_predictions(run, nights)
    notes: dict[date, list[str]] = {}
    for night in nights:
        features, notes[night] = _measure_features(run, night)
        figures[night] = features + figures[night]
        model = run.versions.get(int(run.scored[night].details["model_version"]))
        if model is not None:
            expected, note = expected_performance(run.settings, run.pipeline, model, night, run_id=run.run_id)
            figures[night] += expected
            notes[night] += [note] if note else []
    for night, found, note in _measure_performance(run, nights):
        figures[night] += [found] if found else []
        notes[night] += [note] if note else []
    append_measurements(run.settings, [row for night in nights for row in figures[night]])
    version = table_version(run.settings, MONITORING_TABLE)
    return {
        night: StageOutcome(len(figures[night]), {"notes": notes[night]}, MONITORING_TABLE, version) for night in nights
    }


def _measure_predictions(run: _MonitoringRun, nights: Sequence[date]) -> dict[date, list[Measurement]]:
    """The drift of the scores of the version that made a date's predictions."""
    reports = measure_drift(run.settings, run.pipeline, nights)
    figures = {}
    for night in nights:
        version, output = int(run.scored[night].details["model_version"]), reports[night].output
        figures[night] = [
            drift_measurement(
                run.pipeline.name, night, "prediction", output, reference, version, apart, run_id=run.run_id
            )
            for reference, apart in reports[night].distances.items()
        ]
    return figures


def _measure_features(run: _MonitoringRun, night: date) -> tuple[list[Measurement], list[str]]:
    """The drift of the champion's features, or a note on why there is none."""
    made_of, champion = run.scored[night].details, run.champion
    table = made_of["feature_table"] if int(made_of["model_version"]) == champion.version else ""
    if not (table and table_exists(run.settings, table)):  # another version scored the date, or it was removed since
        table = find_scored_pipeline(run.settings, run.pipeline, champion).feature_table
    if not table_exists(run.settings, table):
        return [], [f"no drift of features: those that champion {champion.version} was trained on are not built"]
    return feature_drift(run.settings, run.pipeline, champion, night, table=table, run_id=run.run_id), []


def _measure_performance(run: _MonitoringRun, nights: Sequence[date]) -> list[tuple[date, Measurement | None, str]]:
    """The realised performance of dates whose labels became known, or why there is none, each with the date of that."""
    metric = run.pipeline.trained_gate.metric
    result: list[tuple[date, Measurement | None, str]] = []
    models: dict[date, tuple[date, ModelVersion]] = {}
    for night in nights:
        for day in newly_labelled_dates(run.pipeline, night):
            scored = run.scored.get(day)
            version = int(scored.details["model_version"]) if scored else None
            if version is None:
                result.append((night, None, f"no performance: {day} was not scored"))
            elif version not in run.versions or metric not in run.versions[version].metrics:
                result.append((night, None, f"no performance: the registry has no test metrics of version {version}"))
            else:
                models[day] = night, run.versions[version]
    if not models:
        return result
    examples = labelled_predictions(run.settings, run.pipeline, list(models))
    for day, (night, model) in models.items():
        found = None
        if day in examples:
            found = measure_performance(run.pipeline, model, day, *examples[day], night=night, run_id=run.run_id)
        note = "" if found else f"no performance: {metric} has no value on the labels of {day}"
        if run.pipeline.output_specs[0].top is not None:
            note = "no performance: the probabilities of some classes are not kept (Classes(probabilities=...))"
        result.append((night, found, note))
    return result
