"""Tiles: of each day of a source, the state of every measure by key. A tile depends on its day's rows alone."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from forecache.errors import ConflictError
from forecache.lake.delta.log import active_files, grouped
from forecache.lake.delta.partitions import find_committed, look, was_written_from
from forecache.lake.delta.tables import open_table, read_table, write_partitions
from forecache.lake.ingest.ingested import IngestedFile, ingested_files
from forecache.lake.stage import Done, Stage, span
from forecache.lake.turn import own_turn
from forecache.lake.windows.states import as_too_large, state_columns
from forecache.pipeline import FeatureView
from forecache.results import Progress, no_progress
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

STAGE = "tiles"
DAY = "day"
_DAYS_AT_ONCE = 366


def day_states(settings: Settings, view: FeatureView) -> dict[date, str]:
    """By day with a landing file, a text that differs wherever the rows of the day differ, or what a tile holds."""
    source = view.events
    by_day: dict[date, list[IngestedFile]] = {}
    for file in ingested_files(settings, source):
        if file.event_day is not None:
            by_day.setdefault(file.event_day, []).append(file)
    return {day: f"{source.raw_table}={_digest(by_day[day])} code={view.tile_fingerprint}" for day in sorted(by_day)}


def _digest(files: Sequence[IngestedFile]) -> str:
    rows = sorted((file.file, file.raw_version, file.raw_rows) for file in files)
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def seen_days(view: FeatureView, days: Mapping[date, str], night: date) -> list[date]:
    """Of the days with landing files, those whose tiles a night is made from, ascending."""
    lengths = [view.longest, view.days_active]
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
    """Write the tiles of days whose rows have changed since they were written, or that have none.

    Args:
        inputs: By day, its text of `day_states`.

    Returns:
        A Delta version of the view's table of tiles, at which those of all the days are written from these inputs.

    Raises:
        InputError: A value is too large for a sum.
        ConflictError: Another run wrote one of the tiles from other rows meanwhile.
    """
    table = view.tile_table
    with own_turn(settings, table, run_id, progress):
        seen = look(settings, table, DAY)

        def build(days: Sequence[date]) -> dict[date, Done]:
            frame, wanted = tile_frame(spark, settings, view, days), {day: inputs[day] for day in days}
            try:
                done = write_partitions(
                    frame, settings, table, column=DAY, values=days, seen=seen, inputs=wanted, run_id=run_id
                )
            except Exception as error:
                known = as_too_large(error, view)
                if known is None:
                    raise
                raise known from error
            return _done(settings, table, done.versions)

        def find(stale: Mapping[date, str]) -> dict[date, Done]:
            written = find_committed(settings, table, column=DAY, inputs=stale)
            return _done(settings, table, {day: writer.version for day, writer in written.items()})

        def tell(some: Sequence[date], share: float) -> None:
            progress(f"tiles of {view.name} for {span(some)}", share)

        stage = Stage(settings, STAGE, view.name, run_id)
        # A table that was deleted is made again: the ledger does not know of it.
        is_gone = seen.version < 0
        records, _ = stage.nights(inputs, build, at_once=_DAYS_AT_ONCE, rebuild=is_gone, find=find, progress=tell)
    delta = open_table(settings, table)
    files = grouped(active_files(delta), DAY)
    for day, text in inputs.items():
        # A tile without rows where there were none is not a commit.
        is_empty = not records[day].rows and not files.get(day.isoformat())
        if not is_empty and not was_written_from(delta, DAY, day, text):
            raise ConflictError(
                f"Another run changed the tile of {day} in the table {table!r}, from other rows.",
                remedy="Run again when it has ended.",
            )
    return int(delta.version())


def tile_frame(spark: "SparkSession", settings: Settings, view: FeatureView, days: Sequence[date]) -> "DataFrame":
    """Key columns, `day`, and the states of the day's rows for each key that has any."""
    from pyspark.sql import functions as F

    source = view.events
    rows = read_table(spark, settings, source.raw_table).where(F.col("event_day").isin(list(days)))
    for name in view.key:
        rows = rows.where(F.col(name).isNotNull())
    states = [state.alias(name) for name, state in state_columns(view).items()]
    tiles = rows.groupBy(*view.key, F.col("event_day").alias(DAY)).agg(*states)
    # One file for each day.
    return tiles.repartition(min(len(days), spark.sparkContext.defaultParallelism), DAY)


def _done(settings: Settings, table: str, versions: Mapping[date, int]) -> dict[date, Done]:
    rows = tile_rows(settings, table, list(versions))
    return {day: Done(rows[day], table=table, delta_version=version) for day, version in versions.items()}


def tile_rows(settings: Settings, table: str, days: Sequence[date]) -> dict[date, int]:
    """Rows of each day's tiles, from the log's statistics."""
    files = grouped(active_files(open_table(settings, table)), DAY) if days else {}
    return {day: sum(file.rows for file in files.get(day.isoformat(), ())) for day in days}
