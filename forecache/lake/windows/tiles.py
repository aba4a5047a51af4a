"""Tiles: the state of every measure by key and day of a source. A tile depends only on the rows of its day."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from forecache.base.errors import ConflictError, InputError, chain_of
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import FeatureView
from forecache.declare.features.live import build_merge_plan, conditions_of, state_names
from forecache.declare.features.window import LastMinutes
from forecache.kit.delta.engine_errors import translate_errors
from forecache.kit.delta.files import DataFile, place_of
from forecache.kit.delta.log import active_files, group_by_partition
from forecache.kit.delta.partitions import take_snapshot, was_written_from
from forecache.kit.delta.tables import open_table
from forecache.kit.delta.writers import new_folder
from forecache.kit.windows.states import TOO_LARGE, MeasureState, as_tiles
from forecache.lake.ingest.ingested_files import IngestedFile, ingested_files
from forecache.lake.partition_stage import write_stale_partitions
from forecache.lake.stage import Stage, hold_table_lock
from forecache.lake.windows.aggregates import WindowFeature
from forecache.lake.windows.key_hashes import KeyHashesByNight
from forecache.lake.windows.task_runner import delta_schema, run_tasks, widen_schema
from forecache.lake.windows.tasks import BUCKET, DAY, TileTask
from forecache.lake.windows.tile_merge import TileMerger

if TYPE_CHECKING:
    from deltalake import Schema
    from pyspark.sql import SparkSession

STAGE = "tiles"
_DAYS_AT_ONCE = 366
_TYPES = {
    "string": pa.string(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "boolean": pa.bool_(),
}


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


def build_tiles(
    spark: "SparkSession",
    settings: Settings,
    view: FeatureView,
    inputs: Mapping[date, str],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
) -> int:
    """Write the tiles of days that have none, or whose rows have changed since they were written.

    Args:
        inputs: By day, its text of `day_states`.

    Returns:
        A Delta version of the view's tile table at which the tiles of all the days are written from these inputs.

    Raises:
        ConflictError: Another run wrote one of the tiles from other rows meanwhile.
    """
    table = view.tile_table
    with hold_table_lock(settings, table, run_id, progress):
        seen = take_snapshot(settings, table, DAY)

        def write(days: Sequence[date]) -> "tuple[Schema, list[DataFile]]":
            with translate_errors(lambda error: as_overflow_error(error, view)):
                return _write_tiles(spark, settings, view, days)

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
    spark: "SparkSession", settings: Settings, view: FeatureView, days: Sequence[date]
) -> "tuple[Schema, list[DataFile]]":
    """Write the tiles of days, one file for each that has rows; returns their columns and the files."""
    source, states, folder = view.event_source, states_of(view), new_folder()
    delta = open_table(settings, source.raw_table)
    raw, kinds = pa.schema(delta.schema()), {column.name: column.type for column in source.columns}
    names = [*view.key, source.event_time, *(name for state in states for name in state.reads)]
    read = pa.schema([_tile_field(raw, name, kinds) for name in dict.fromkeys(names)])
    empty = as_tiles(read.empty_table(), view.key, states, source.event_time)
    stored = widen_schema(empty.schema.append(pa.field(BUCKET, pa.int32())), settings, view.tile_table)
    files = group_by_partition(active_files(delta), "event_day")
    places = place_of(settings, source.raw_table), place_of(settings, view.tile_table)
    tasks = [
        TileTask(*places, day, paths, read, stored, view.key, states, source.event_time, folder)
        for day in days
        if (paths := tuple(file.path for file in files.get(day.isoformat(), ())))
    ]
    written = run_tasks(spark, view.tile_table, tasks, lambda task: task.files())
    return delta_schema(stored.append(pa.field(DAY, pa.date32()))), written


def _tile_field(raw: pa.Schema, name: str, kinds: Mapping[str, str]) -> pa.Field:
    """A column with its type in the raw table, or its declared type if no file has had it yet."""
    return raw.field(name) if name in raw.names else pa.field(name, _TYPES[kinds[name]])


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
