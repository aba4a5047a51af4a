"""The daily partitions of the lake's tables, declared once: a source's landing days and a pipeline's nights."""

from datetime import date, timedelta

import dagster as dg

from forecache.pipeline import Served, Source


def daily(start: date, end: date | None) -> dg.DailyPartitionsDefinition:
    """Days from `start` to `end`, both included, in UTC; a day exists once it is over."""
    return dg.DailyPartitionsDefinition(
        start_date=start.isoformat(),
        end_date=(end + timedelta(days=1)).isoformat() if end else None,
        timezone="UTC",
    )


def source_partitions(source: Source) -> dg.DailyPartitionsDefinition:
    return daily(source.start, source.end)


def pipeline_partitions(pipeline: Served) -> dg.DailyPartitionsDefinition:
    return daily(pipeline.start, pipeline.end)
