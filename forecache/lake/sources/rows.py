"""The rows of sources, point in time: what was known on each as-of date, and what happened in the horizon after it.

Declarations only ever see sources through these two, so a feature cannot use the future.
"""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from forecache.lake.delta.tables import read_table
from forecache.pipeline import AS_OF, Source
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def known_rows(
    spark: "SparkSession", settings: Settings, sources: Iterable[Source], nights: Sequence[date]
) -> dict[str, "DataFrame"]:
    """By name of the source, the rows known on each night: the source's columns, `event_day` and `as_of`."""
    return {
        source.name: cut_events(read_table(spark, settings, source.raw_table), nights, after=None, until=0)
        for source in sources
    }


def horizon_rows(
    spark: "SparkSession", settings: Settings, sources: Iterable[Source], nights: Sequence[date], horizon_days: int
) -> dict[str, "DataFrame"]:
    """By name of the source, the rows in (night, night + horizon]: its columns, `event_day` and `as_of`."""
    return {
        source.name: cut_events(read_table(spark, settings, source.raw_table), nights, after=0, until=horizon_days)
        for source in sources
    }


def cut_events(raw: "DataFrame", nights: Sequence[date], *, after: int | None, until: int) -> "DataFrame":
    from pyspark.sql import functions as F

    bounded = raw.where(F.col("event_day") <= F.lit(max(nights) + timedelta(days=until)))
    if after is not None:
        bounded = bounded.where(F.col("event_day") > F.lit(min(nights) + timedelta(days=after)))
    days = F.datediff("event_day", F.col(AS_OF))
    dated = bounded.withColumn(AS_OF, F.explode(F.array(*(F.lit(night) for night in sorted(nights)))))
    dated = dated.where(days <= until)
    return dated if after is None else dated.where(days > after)
