"""Nights of a view with windows: their inputs, the tiles of their days, and their rows from the tiles, in Spark tasks.

A tile has the state of every measure by key, and depends only on the rows of its day.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from forecache.base.errors import ConflictError, InputError, chain_of
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, FeatureView
from forecache.declare.features.live import build_merge_plan, conditions_of, state_names
from forecache.declare.features.window import LastMinutes
from forecache.kit.delta.errors import as_known_error, translate_errors
from forecache.kit.delta.files import DataFile, fit_columns, pickle_file, place_of
from forecache.kit.delta.log import active_files, group_by_partition, open_if_exists
from forecache.kit.delta.partitions import take_snapshot, was_written_from
from forecache.kit.delta.tables import open_table
from forecache.kit.delta.writers import collect_files, new_folder
from forecache.kit.windows.plan import BaseColumn
from forecache.kit.windows.states import TOO_LARGE, MeasureState, as_tiles
from forecache.lake.engine import Engine, map_in_threads
from forecache.lake.ingest.ingested_files import IngestedFile, ingested_files
from forecache.lake.ingest.typed_rows import TYPES
from forecache.lake.ledger import last_records
from forecache.lake.stage_runner import Stage, StaleWork, find_stale, hold_table_lock, write_stale_partitions
from forecache.lake.stored_features import RowBatches
from forecache.plugins.window_features.key_hashes import KeyHashesByNight, hash_requested_keys
from forecache.plugins.window_features.tasks import BUCKET, DAY, NightTask, TileTask, split_buckets
from forecache.plugins.window_features.tile_merge import TileMerger, WindowFeature

if TYPE_CHECKING:
    from deltalake import Schema
    from pyspark.sql import DataFrame, SparkSession


_T = TypeVar("_T")
# A Spark task costs some hundredths of a second; so many for each core balance the work well enough.
_TASKS_A_CORE = 4


def run_tasks(
    engine: Engine, table: str, tasks: Sequence[_T], files: Callable[[_T], Iterable[DataFile]]
) -> list[DataFile]:
    """Run tasks; returns the files that they write for a table."""
    if engine.name == "arrow":
        with translate_errors(partial(as_known_error, table)):
            return [file for some in map_in_threads(lambda task: list(files(task)), tasks) for file in some]
    at_once = _TASKS_A_CORE * engine.num_cores
    rows = lambda task: map(pickle_file, files(task))  # noqa: E731
    return collect_files(task_frame(engine.session(), tasks, rows, "file binary", num_tasks=at_once), table)


def task_frame(
    spark: "SparkSession",
    tasks: Sequence[_T],
    rows: Callable[[_T], Iterable[pa.RecordBatch]],
    schema: str,
    *,
    num_tasks: int | None = None,
) -> "DataFrame":
    """The rows of tasks as a frame; `num_tasks` is the maximum number of Spark tasks (None: one for each)."""
    tasks = list(tasks)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from rows(tasks[number])

    num_tasks = max(1, min(len(tasks), num_tasks or len(tasks)))
    return spark.range(0, len(tasks), 1, num_tasks).mapInArrow(run, schema)


def widen_schema(schema: pa.Schema, settings: Settings, table: str) -> pa.Schema:
    """The schema with the types that its columns have in a table, if those are wider integers."""
    delta = open_if_exists(settings, table)
    there = {field.name: field.type for field in pa.schema(delta.schema())} if delta is not None else {}
    wider = (pa.int32(), pa.int64())
    return pa.schema([f.with_type(pa.int64()) if (f.type, there.get(f.name)) == wider else f for f in schema])


STAGE = "tiles"
_DAYS_AT_ONCE = 366


def day_states(settings: Settings, view: FeatureView) -> dict[date, str]:
    """By day with a landing file, a text that changes if the rows of the day or the content of a tile change."""
    source = view.event_source
    by_day: dict[date, list[IngestedFile]] = {}
    for file in ingested_files(settings, source):
        if file.event_day is not None:
            by_day.setdefault(file.event_day, []).append(file)
    return {day: f"{source.raw_table}={_digest(by_day[day])} code={view.tile_fingerprint}" for day in sorted(by_day)}


def _digest(files: Sequence[IngestedFile]) -> str:
    rows = sorted((file.file, file.raw_version, file.raw_rows) for file in files)
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def window_days(view: FeatureView, days: Mapping[date, str], night: date) -> list[date]:
    """The days with landing files whose tiles are in a night's windows, ascending."""
    lengths = [view.longest_window_days, view.num_active_days]
    first = None if None in lengths else night - timedelta(days=max(n for n in lengths if n is not None) - 1)
    return [day for day in days if day <= night and (first is None or day >= first)]


def find_stale_tiles(settings: Settings, view: FeatureView, nights: Sequence[date]) -> StaleWork:
    """Find the days whose tiles the features of some nights need and that are missing or stale."""
    days, table = day_states(settings, view), view.tile_table
    inputs = {day: days[day] for day in sorted({day for night in nights for day in window_days(view, days, night)})}
    before = last_records(settings, STAGE, view.name, nights=inputs)
    is_missing = take_snapshot(settings, table, DAY).version < 0
    stale = find_stale(inputs, before, rebuild=inputs if is_missing else ())
    return StaleWork(Stage(settings, STAGE, view.name), {day: inputs[day] for day in stale}, before)


def build_tiles(
    engine: Engine,
    settings: Settings,
    view: FeatureView,
    inputs: Mapping[date, str],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
) -> int:
    """Write the tiles of days, with their texts of `day_states`, that have none or whose rows have changed.

    Returns a Delta version at which the tiles of all the days are written from these inputs; ConflictError if another
    run wrote one of them from other rows meanwhile.
    """
    table = view.tile_table
    with hold_table_lock(settings, table, run_id, progress):
        seen = take_snapshot(settings, table, DAY)

        def write(days: Sequence[date]) -> "tuple[Schema, list[DataFile]]":
            with translate_errors(lambda error: as_overflow_error(error, view)):
                return _write_tiles(engine, settings, view, days)

        records, _ = write_stale_partitions(
            Stage(settings, STAGE, view.name, run_id),
            table,
            inputs,
            write,
            column=DAY,
            seen=seen,
            at_once=_DAYS_AT_ONCE,
            rebuild=seen.version < 0,  # a deleted table is rebuilt, which the ledger does not show
            progress=progress,
            about=f"tiles of {view.name}",
        )
    delta = open_table(settings, table)
    files = group_by_partition(active_files(delta), DAY)
    for day, text in inputs.items():
        # An empty tile that replaces none is not a commit.
        is_empty = not records[day].rows and not files.get(day.isoformat())
        if not is_empty and not was_written_from(delta, DAY, day, text):
            raise ConflictError(
                f"Another run changed the tile of {day} in the table {table!r}, from other rows.",
                remedy="Run again when it has ended.",
            )
    return int(delta.version())


def _write_tiles(
    engine: Engine, settings: Settings, view: FeatureView, days: Sequence[date]
) -> "tuple[Schema, list[DataFile]]":
    """Write the tiles of days, files of some keys each if a day has many rows; returns their columns and the files."""
    from deltalake import Schema

    source, states, folder = view.event_source, states_of(view), new_folder()
    delta = open_table(settings, source.raw_table)
    raw, kinds = pa.schema(delta.schema()), {column.name: column.type for column in source.columns}
    names = [*view.key, *(name for state in states for name in state.reads)]
    if any(state.needs_time for state in states):
        names.append(source.event_time)
    # With its type in the raw table, or its declared type if no file has had it yet.
    known = (raw.field(n) if n in raw.names else pa.field(n, TYPES[kinds[n]]) for n in dict.fromkeys(names))
    read = pa.schema(known)
    empty = as_tiles(read.empty_table(), view.key, states, source.event_time)
    stored = widen_schema(empty.schema.append(pa.field(BUCKET, pa.int32())), settings, view.tile_table)
    files = group_by_partition(active_files(delta), "event_day")
    places = place_of(settings, source.raw_table), place_of(settings, view.tile_table)
    tasks = [
        TileTask(*places, day, paths, read, stored, view.key, states, source.event_time, folder, part)
        for day in days
        if (paths := tuple(file.path for file in files.get(day.isoformat(), ())))
        for part in split_buckets(_num_tile_tasks(engine, sum(file.rows for file in files[day.isoformat()])))
    ]
    written = run_tasks(engine, view.tile_table, tasks, lambda task: task.files())
    return Schema.from_arrow(stored.append(pa.field(DAY, pa.date32()))), written


def _num_tile_tasks(engine: Engine, rows: int) -> int:
    return min(engine.num_cores, -(-rows // _TILE_TASK_ROWS)) if rows > _TILE_TASK_ROWS else 1


def states_of(view: FeatureView) -> tuple[MeasureState, ...]:
    """The states that a tile of the view holds."""
    return tuple(
        MeasureState(
            measure.aggregate,
            state_names(measure),
            measure.column,
            conditions_of(measure),
            measure.minutes if isinstance(measure, LastMinutes) else None,
        )
        for measure in view.measures
    )


def merger_of(view: FeatureView, nights: Sequence[date], asked: KeyHashesByNight | None = None) -> TileMerger:
    """The function that makes the nights of a view from its tiles."""
    features = []
    for window in view.windows:
        states = tuple(name for measure in window.measures for name in state_names(measure))
        features.append(WindowFeature(window.name, window.aggregate, window.num_days, states, window.delay_days))
    plan = None if view.live is None else build_merge_plan(view)
    return TileMerger(view.key, tuple(features), tuple(sorted(nights)), view.num_active_days, asked, plan)


def as_overflow_error(error: BaseException, view: FeatureView) -> InputError | None:
    """Translate the error of a job with a value that is too large for an exact sum; None for any other."""
    for each in chain_of(error):
        _, marker, rest = str(each).partition(TOO_LARGE)
        if marker:
            name, _, value = rest.split()[0].strip("'\"").partition("=")
            return InputError(
                f"Feature view {view.name!r} sums the column {name!r}, which has the value {value}.",
                remedy="Sums are exact for values within 2**44: declare a `minimum` and `maximum` of that column, so "
                "that such rows are quarantined, or leave it out with `where`.",
            )
    return None


# Limit of tiles, some hundred bytes each, in the memory of a Python task, and the least number worth a task.
_TASK_ROWS, _LEAST_ROWS = 1 << 20, 1 << 16
# A day with more rows has several tasks, one for a core at most, as each of them reads all rows.
_TILE_TASK_ROWS = 5 << 20
_SPARK = {pa.int32(): "int", pa.int64(): "bigint"}


def window_inputs(settings: Settings, view: FeatureView, nights: Sequence[date]) -> dict[date, str]:
    """For each night, text of the state of the days in its windows, and of the declaration."""
    source = view.event_source
    days, versions = day_states(settings, view), dict[date, int]()
    for file in ingested_files(settings, source):
        if file.event_day is not None:
            versions[file.event_day] = max(file.raw_version, versions.get(file.event_day, -1))
    inputs = {}
    for night in nights:
        seen = window_days(view, days, night)
        digest = hashlib.sha256(repr([(day, days[day]) for day in seen]).encode()).hexdigest()[:16]
        newest = max((versions.get(day, -1) for day in seen), default=-1)
        inputs[night] = f"{source.raw_table}@{newest} days={digest} code={view.fingerprint}"
    return inputs


def window_frame(
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    *,
    progress: Progress = no_progress,
    asked: "pa.Table | None" = None,
) -> "DataFrame":
    """Key columns, `as_of`, the features (double) and the states of a live view, of nights; builds missing tiles first.

    `asked` has key columns and `as_of` of the rows that are needed; None: all.
    """
    engine = Engine(settings, "spark")
    tasks = _tasks(engine, settings, view, nights, "", progress, asked)
    kinds = {column.name: column.type for column in view.event_source.columns}
    columns = [f"`{name}` {_SPARK.get(tasks[0].read.field(name).type, kinds[name])}" for name in view.key]
    columns += ["as_of date", *(f"`{window.name}` double" for window in view.windows)]
    columns += [f"`{column.name}` {'double' if column.is_float else 'bigint'}" for column in _state_columns(view)]
    return task_frame(engine.session(), tasks, lambda task: task.rows(), ", ".join(columns))


def window_rows(
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    *,
    progress: Progress = no_progress,
    asked: "pa.Table | None" = None,
) -> RowBatches:
    """Key columns, `as_of` and the features (float32) of nights, made in this process; otherwise as `window_frame`."""
    tasks = _tasks(Engine(settings, "arrow"), settings, view, nights, "", progress, asked)
    keys = [tasks[0].read.field(name) for name in view.key]
    schema = pa.schema([*keys, (AS_OF, pa.date32()), *((each.name, pa.float32()) for each in view.windows)])
    return RowBatches(schema, (fit_columns(batch, schema) for task in tasks for batch in task.rows()))


def write_windows(
    engine: Engine,
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
) -> "tuple[Schema, list[DataFile]]":
    """Write the features of nights as files of the view's table; returns their columns and the files."""
    from deltalake import Schema

    tasks, folder = _tasks(engine, settings, view, nights, run_id, progress), new_folder()
    place = place_of(settings, view.feature_table)
    files = run_tasks(engine, view.feature_table, tasks, lambda task: task.files(place, folder))
    return Schema.from_arrow(tasks[0].stored.append(pa.field(AS_OF, pa.date32()))), files


def _tasks(
    engine: Engine,
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    run_id: str,
    progress: Progress,
    asked: "pa.Table | None" = None,
) -> list[NightTask]:
    """Tasks for the nights, each for some of the keys; builds missing tiles first."""
    states = day_states(settings, view)
    days = sorted({day for night in nights for day in window_days(view, states, night)})
    if not days:
        raise InputError(
            f"No landing file has been ingested of the days that the windows of {view.name!r} see on {min(nights)}.",
            remedy="Land files for these days, or take a later date.",
        )
    inputs = {day: states[day] for day in days}
    version = build_tiles(engine, settings, view, inputs, run_id=run_id, progress=progress)
    delta = open_table(settings, view.tile_table, version=version)
    known = pa.schema(delta.schema())
    merge = merger_of(view, nights, None if asked is None else hash_requested_keys(asked, view.key, known))
    names = dict.fromkeys(n for feature in merge.features for n in feature.states)
    read = pa.schema([known.field(name) for name in (*view.key, *names)])
    stored = [*(read.field(name) for name in view.key), *(pa.field(each.name, pa.float32()) for each in view.windows)]
    stored += [pa.field(each.name, pa.float64() if each.is_float else pa.int64()) for each in _state_columns(view)]
    stored = widen_schema(pa.schema(stored), settings, view.feature_table)
    files = group_by_partition(active_files(delta), DAY)
    rows = sum(file.rows for day in days for file in files.get(day.isoformat(), ()))
    paths = tuple((day, tuple(file.path for file in files.get(day.isoformat(), ()))) for day in days)
    cores = engine.num_cores
    num_tasks = max(1, min(cores, rows // _LEAST_ROWS), -(-rows // _TASK_ROWS))
    place = place_of(settings, view.tile_table)
    return [NightTask(place, paths, read, part, merge, stored) for part in split_buckets(num_tasks)]


def _state_columns(view: FeatureView) -> tuple[BaseColumn, ...]:
    return () if view.live is None else build_merge_plan(view).base_columns
