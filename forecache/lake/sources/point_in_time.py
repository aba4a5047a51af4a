"""Point-in-time rows of sources: those known on each as-of date, and those in the horizon after it.

Declared functions get source rows only from these two functions, so a feature cannot use the future.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING

from forecache.base.settings import Settings
from forecache.declare import AnySource, TableSource
from forecache.kit.delta.tables import read_table
from forecache.lake.sources.as_of_rows import cut_events, horizon_states, known_states
from forecache.lake.sources.tables.pins import Pins
from forecache.lake.sources.tables.table_rows import horizon_table_rows, known_table_rows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def known_rows(
    spark: "SparkSession",
    settings: Settings,
    sources: Iterable[AnySource],
    nights: Sequence[date],
    *,
    pins: Pins | None = None,
) -> dict[str, "DataFrame"]:
    """By name of the source, the rows known on each night: the source's columns, `event_day` and `as_of`.

    For events these are all up to and including the night; for a snapshot, the rows of the last state up to it; for
    rows without time, all.

    Args:
        pins: The existing tables as the run sees them; None: as they are now.
    """
    pins = pins or Pins(settings)

    def read_known(source: AnySource) -> "DataFrame":
        if isinstance(source, TableSource):
            return known_table_rows(spark, pins.pin(source), nights)
        raw = read_table(spark, settings, source.raw_table)
        if source.time is not None:
            return known_states(spark, settings, source, raw, nights)
        return cut_events(raw, nights, after=None, until=0)

    return {source.name: read_known(source) for source in sources}


def horizon_rows(
    spark: "SparkSession",
    settings: Settings,
    sources: Iterable[AnySource],
    nights: Sequence[date],
    horizon_days: int,
    *,
    pins: Pins | None = None,
) -> dict[str, "DataFrame"]:
    """By name of the source, the rows in (night, night + horizon]: its columns, `event_day` and `as_of`.

    For a snapshot these are the states delivered in that time; for rows without time, all. Otherwise as `known_rows`.
    """
    pins = pins or Pins(settings)

    def read_horizon(source: AnySource) -> "DataFrame":
        if isinstance(source, TableSource):
            return horizon_table_rows(spark, pins.pin(source), nights, horizon_days)
        raw = read_table(spark, settings, source.raw_table)
        if source.time is not None:
            return horizon_states(spark, settings, source, raw, nights, horizon_days)
        return cut_events(raw, nights, after=0, until=horizon_days)

    return {source.name: read_horizon(source) for source in sources}
