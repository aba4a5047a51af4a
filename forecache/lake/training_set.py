"""The training set: features and labels on past as-of dates, split by time or by entity."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from forecache.base.errors import InputError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, Pipeline
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import DataFile, place_of
from forecache.kit.delta.tables import replace_table
from forecache.kit.delta.writers import write_frame
from forecache.lake.contracts import (
    require_class_names,
    require_classes,
    require_labels,
    require_numbers,
    require_one_row_each,
)
from forecache.lake.engine import decide_engine, find_spark_functions
from forecache.lake.feature_rows import feature_frame
from forecache.lake.features import require_nights
from forecache.lake.labelled_rows import NUM_FILES, PLACES, SPLITS, write_labelled_rows
from forecache.lake.sources import Pins, count_rows, horizon_rows, source_states, state_history
from forecache.lake.sql_rows import label_query_frame
from forecache.lake.stage_runner import Stage, StageOutcome, adopt_table, hold_table_lock

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import Schema
    from pyspark.sql import Column, DataFrame, SparkSession


def as_of_dates(pipeline: Pipeline, night: date) -> dict[str, tuple[date, ...]]:
    """The as-of dates of each split for a training night, ascending, see `forecache.Training`; InputError if the
    data do not reach back far enough for a single one."""
    horizon = timedelta(days=pipeline.trained_label.horizon_days)
    step = timedelta(days=pipeline.training.every_days)
    by_entity = pipeline.training.split is not None
    dates = pipeline.schedule
    test = dates.last_as_of_until(night - horizon)
    validation = dates.last_as_of_until(test - horizon)
    train = [test if by_entity else dates.last_as_of_until(validation - horizon)]
    while len(train) < pipeline.training.num_as_of:
        train.append(dates.last_as_of_until(train[-1] - step))
    train = sorted(day for day in train if day >= pipeline.start)
    if not train:
        first = pipeline.start
        for _ in range(1 if by_entity else 3):
            first = dates.first_as_of_from(first + horizon)
        raise InputError(
            f"Pipeline {pipeline.name!r} cannot train as of {night}: its data starts on {pipeline.start}.",
            remedy=f"{'One label horizon is' if by_entity else 'Three label horizons are'} needed: train on {first} or "
            "later.",
        )
    if by_entity:
        return dict.fromkeys(SPLITS, tuple(train))
    return {"train": tuple(train), "validation": (validation,), "test": (test,)}


def find_short_histories(pipeline: Pipeline, dates: Mapping[str, Sequence[date]]) -> list[str]:
    """A sentence for each view with a declared window that reaches further back than its data do on the first of the
    training dates: the same feature means less there than on the later ones. SQL and functions are not looked into."""
    first = min(day for split in SPLITS for day in dates[split])
    found = []
    for view in pipeline.views:
        history_days = (first - view.start).days + 1
        reach = {window.name: window.delay_days + window.days for window in view.windows if window.days}
        longest = max(reach, key=reach.__getitem__, default="")
        if longest and reach[longest] > history_days:
            found.append(
                f"The window {longest!r} of {view.name!r} reaches {reach[longest]} days back, and {pipeline.name!r} "
                f"trains on {first}, before which there are {history_days} days of data: declare a smaller num_as_of."
            )
    return found


def split_column(pipeline: Pipeline, dates: Mapping[str, Sequence[date]]) -> "Column":
    """The split of a row: by its date, or by a hash of its key."""
    from pyspark.sql import functions as F

    shares = pipeline.training.split
    if shares is None:
        return F.coalesce(*(F.when(F.col(AS_OF).isin(list(dates[name])), F.lit(name)) for name in SPLITS))
    place = F.pmod(F.xxhash64(*pipeline.key), F.lit(PLACES)) / F.lit(PLACES)
    held_out = F.when(place < shares.test, F.lit("test"))
    return held_out.when(place < shares.test + shares.validation, F.lit("validation")).otherwise(F.lit("train"))


STAGE = "training_set"


def build_training_set(
    settings: Settings,
    pipeline: Pipeline,
    night: date,
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Write the training set as of a night, replacing the previous one (which stays readable as a Delta version).

    With `rebuild` also if the previous one is current; a model is then trained on the new version.

    Returns:
        `details` has, by split: `splits` (rows), `as_of` (ISO dates); and `label_mean` by as-of date, or of classes
        `classes` in the order of a model's probabilities, and `class_shares` by split; and `warnings` of histories that
        are too short.

    Raises:
        InputError: A night, split or label is not valid, or an entity has several on a date. The table is unchanged.
    """
    stage = Stage(settings, STAGE, pipeline.name, run_id)
    pins = Pins(settings)
    require_nights(settings, pipeline, [night], pins=pins)
    dates = as_of_dates(pipeline, night)
    with hold_table_lock(settings, pipeline.training_table, run_id, progress):
        inputs = _inputs(settings, pipeline, night, dates, pins)

        def build() -> StageOutcome:
            adopted = None if rebuild else adopt_table(stage, pipeline.training_table, inputs, progress=progress)
            if adopted is not None:
                return adopted
            progress(f"training set of {pipeline.name} as of {night}", None)
            for warning in find_short_histories(pipeline, dates):
                progress(warning, None)
            return _build(settings, pipeline, dates, pins=pins, run_id=run_id, progress=progress)

        row, skipped = stage.run_once(inputs, build, rebuild=rebuild)
    return stage.result(
        row.rows, nights=[night], table=row.table, version=row.delta_version, skipped=skipped, details=row.details
    )


def _inputs(
    settings: Settings, pipeline: Pipeline, night: date, dates: Mapping[str, Sequence[date]], pins: Pins
) -> str:
    # Labels of the test date reach up to the night, so the state of events up to the night covers every row used.
    raw = source_states(settings, pipeline.all_sources, [night], pins=pins)[night]
    first = min(day for split in SPLITS for day in dates[split])
    raw += "".join(state_history(settings, source, first, night, pins=pins) for source in pipeline.all_sources)
    days = ",".join(f"{split}:{day}" for split in SPLITS for day in dates[split])
    return f"{raw} label={pipeline.fingerprints.training_set} dates={days}"


def _build(
    settings: Settings,
    pipeline: Pipeline,
    dates: Mapping[str, Sequence[date]],
    *,
    pins: Pins,
    run_id: str,
    progress: Progress,
) -> StageOutcome:
    details: dict[str, Any] = {}
    schema, files = write_rows_of_dates(settings, pipeline, dates, pins=pins, details=details, progress=progress)
    written = _read_checked(settings, pipeline, files)
    require_labels(written, pipeline)
    classes = require_classes(written, pipeline) if pipeline.trained_label.kind == "multiclass" else ()
    groups = written.group_by(["split", AS_OF]).aggregate([([], "count_all")])
    by_date = {(row["split"], row[AS_OF]): row["count_all"] for row in groups.to_pylist()}
    empty = [(split, day) for split in SPLITS for day in dates[split] if (split, day) not in by_date]
    if empty:
        raise InputError(
            f"The {empty[0][0]} split of pipeline {pipeline.name!r} has no entity on {empty[0][1]}.",
            remedy="Ingest earlier landing files or train as of a later date."
            if pipeline.training.split is None
            else "Give it a larger share of the entities: EntitySplit(validation=..., test=...).",
        )
    version = replace_table(settings, pipeline.training_table, schema, files, run_id=run_id)
    details |= {
        "splits": {s: sum(by_date[s, day] for day in dates[s]) for s in SPLITS},
        "as_of": {split: [day.isoformat() for day in dates[split]] for split in SPLITS},
        **(_class_shares(written, pipeline, classes) if classes else {"label_mean": _label_means(written, pipeline)}),
        **pins.details(pipeline.all_sources),
        "warnings": find_short_histories(pipeline, dates),
    }
    return StageOutcome(written.num_rows, details, pipeline.training_table, version)


def write_rows_of_dates(
    settings: Settings,
    pipeline: Pipeline,
    dates: Mapping[str, Sequence[date]],
    *,
    pins: Pins,
    details: dict[str, Any],
    progress: Progress = no_progress,
) -> "tuple[Schema, Sequence[DataFile]]":
    """Write the features and labels of the dates of each split, by the engine that fits, into files of the training
    table, which does not have them yet; returns their columns and the files. `details` gets the engine."""
    computes = [pipeline.entities.compute] if pipeline.entities else []
    functions = find_spark_functions(pipeline.views, *computes, pipeline.trained_label.compute)
    last = max(day for split in SPLITS for day in dates[split])
    engine = decide_engine(settings, needs_spark=functions, rows=count_rows(settings, pipeline.all_sources, last=last))
    engine.report(details, progress, about=f"training set of {pipeline.name}")
    if engine.name == "arrow":
        return write_labelled_rows(settings, pipeline, dates, pins=pins)
    frame = labelled_frame(engine.session(), settings, pipeline, dates, pins=pins)
    return write_frame(frame, settings, pipeline.training_table, fit=False)


def _label_means(written: "pa.Table", pipeline: Pipeline) -> dict[str, float]:
    # Threads would add the labels in another order each time.
    groups = written.group_by([AS_OF], use_threads=False)
    rows = groups.aggregate([(pipeline.trained_label.name, "mean")]).to_pylist()
    return dict(sorted((row[AS_OF].isoformat(), row[f"{pipeline.trained_label.name}_mean"]) for row in rows))


def _class_shares(written: "pa.Table", pipeline: Pipeline, classes: Sequence[str]) -> dict[str, Any]:
    """By class, its share of the rows of each split."""
    counts = written.group_by(["split", pipeline.trained_label.name]).aggregate([([], "count_all")]).to_pylist()
    rows = {split: sum(row["count_all"] for row in counts if row["split"] == split) for split in SPLITS}
    by = {(row["split"], row[pipeline.trained_label.name]): row["count_all"] for row in counts}
    return {
        "classes": list(classes),
        "class_shares": {
            split: {name: by.get((split, name), 0) / max(1, rows[split]) for name in classes} for split in SPLITS
        },
    }


def _read_checked(settings: Settings, pipeline: Pipeline, files: Sequence[DataFile]) -> "pa.Table":
    """`split`, `as_of` and the label of every row of a training set's files; InputError for an entity twice on a date,
    whose rows are in one file, as `labelled_frame` partitions by these.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = pipeline.trained_label.columns
    kinds = (pa.string() if pipeline.trained_label.kind == "multiclass" else pa.float64(), pa.float64())
    typed = pa.schema([("split", pa.string()), (AS_OF, pa.date32()), *zip(columns, kinds, strict=False)])
    parts = [typed.empty_table()]
    filesystem = place_of(settings, pipeline.training_table).open()
    for file in sorted(files, key=lambda file: file.path):
        with open_data_file(filesystem, file.path, pipeline.training_table) as source:
            rows = pq.read_table(source, columns=[*pipeline.key, "split", AS_OF, *columns])
        require_one_row_each(rows, pipeline)
        parts.append(rows.select(["split", AS_OF, *columns]).cast(parts[0].schema))
    return pa.concat_tables(parts)


def labelled_frame(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    dates: Mapping[str, Sequence[date]],
    *,
    pins: Pins | None = None,
) -> "DataFrame":
    """Key columns, `as_of`, `split`, the features (float32), the label (double, of classes string) and its weight
    (double), in a fixed order."""
    nights = sorted({day for split in SPLITS for day in dates[split]})
    entity = [*pipeline.key, AS_OF]
    features = feature_frame(spark, settings, pipeline, nights, pins=pins)
    labels = label_frame(spark, settings, pipeline, features.select(*entity), nights, pins=pins)
    return (
        features.join(labels, entity)
        .withColumn("split", split_column(pipeline, dates))
        .repartition(NUM_FILES, *entity)
        .sortWithinPartitions(*entity)
    )


def label_frame(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    entities: "DataFrame",
    nights: Sequence[date],
    *,
    pins: Pins | None = None,
) -> "DataFrame":
    """Key columns, `as_of`, the label (double, of classes string) and its weight (double) of entities on nights,
    from the source rows in each night's horizon."""
    from pyspark.sql import functions as F

    label, classes = pipeline.trained_label, pipeline.trained_label.kind == "multiclass"
    if label.compute is None:
        labels = label_query_frame(spark, settings, pipeline, entities, nights, pins=pins)
    else:
        happened = horizon_rows(spark, settings, pipeline.label_sources, nights, label.horizon_days, pins=pins)
        labels = label.compute(entities, happened)
    require_numbers(labels, pipeline, label.columns[1:] if classes else label.columns, label.computation, "label")
    if classes:
        require_class_names(labels, pipeline)
    kinds = ("string" if classes else "double", "double")
    typed = [F.col(name).cast(kind) for name, kind in zip(label.columns, kinds, strict=False)]
    return labels.select(*pipeline.key, AS_OF, *typed)
