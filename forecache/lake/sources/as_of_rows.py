"""Landed rows at as-of dates: events up to each date, and the snapshot file that is valid on it."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from forecache.base.settings import Settings
from forecache.declare import AS_OF, Source, Static
from forecache.lake.ingest.ingested_files import IngestedFile, delivered_days, ingested_files, state_file

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def known_states(
    spark: "SparkSession", settings: Settings, source: Source, raw: "DataFrame", nights: Sequence[date]
) -> "DataFrame":
    """For each night, the rows of the snapshot that is valid on it."""
    files = ingested_files(settings, source)
    return _rows_of(spark, raw, ((night, state_file(source, files, night)) for night in nights))


def horizon_states(
    spark: "SparkSession",
    settings: Settings,
    source: Source,
    raw: "DataFrame",
    nights: Sequence[date],
    horizon_days: int,
) -> "DataFrame":
    """For each night, the rows of every snapshot of the days in (night, night + horizon]."""
    if isinstance(source.time, Static):
        return known_states(spark, settings, source, raw, nights)
    files = ingested_files(settings, source)
    by_day = {day: state_file(source, files, day) for day in delivered_days(files)}
    horizon = timedelta(days=horizon_days)
    chosen = ((night, file) for night in nights for day, file in by_day.items() if night < day <= night + horizon)
    return _rows_of(spark, raw, chosen)


def _rows_of(
    spark: "SparkSession", raw: "DataFrame", chosen: Iterable[tuple[date, IngestedFile | None]]
) -> "DataFrame":
    from pyspark.sql import functions as F

    pairs = [(night, file.event_day, file.file) for night, file in chosen if file is not None]
    of_nights = spark.createDataFrame(pairs, f"{AS_OF} date, event_day date, source_file string")
    days = sorted({day for _, day, _ in pairs if day})
    rows = raw.where(F.col("event_day").isin(days))
    return rows.join(F.broadcast(of_nights), ["event_day", "source_file"]).select(*raw.columns, AS_OF)


def cut_events(events: "DataFrame", nights: Sequence[date], *, after: int | None, until: int) -> "DataFrame":
    """For each night, the events on the days in (night + after, night + until], with `as_of`; None: no lower limit."""
    from pyspark.sql import functions as F

    bounded = events.where(F.col("event_day") <= F.lit(max(nights) + timedelta(days=until)))
    if after is not None:
        bounded = bounded.where(F.col("event_day") > F.lit(min(nights) + timedelta(days=after)))
    days = F.datediff("event_day", F.col(AS_OF))
    dated = bounded.withColumn(AS_OF, F.explode(F.array(*(F.lit(night) for night in sorted(nights)))))
    dated = dated.where(days <= until)
    return dated if after is None else dated.where(days > after)
