"""Point-in-time events: what was known on each as-of date, and what happened in the horizon after it.

Declarations only ever see events through these two cuts, so a feature cannot use the future.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from forecache.lake.delta.tables import read_table
from forecache.pipeline import AS_OF, Pipeline
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def known_events(
    spark: "SparkSession", settings: Settings, pipeline: Pipeline, nights: Sequence[date]
) -> dict[str, "DataFrame"]:
    """By source, the events up to and including each night: the raw columns and `as_of`."""
    return {
        source.name: cut_events(read_table(spark, settings, source.raw_table), nights, after=None, until=0)
        for source in pipeline.sources
    }


def horizon_events(
    spark: "SparkSession", settings: Settings, pipeline: Pipeline, nights: Sequence[date]
) -> dict[str, "DataFrame"]:
    """By source, the events in (night, night + horizon]: the raw columns and `as_of`."""
    return {
        source.name: cut_events(
            read_table(spark, settings, source.raw_table), nights, after=0, until=pipeline.label.horizon_days
        )
        for source in pipeline.sources
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
