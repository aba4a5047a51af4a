"""Judges landing rows in one Spark expression: good, or bad with the reason."""

from collections.abc import Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING

from forecache.base.settings import Settings
from forecache.declare import Column, Source
from forecache.kit.delta.tables import read_table
from forecache.lake.ingest.snapshot_checks import refuse_partial_files, refuse_repeated_keys

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql import DataFrame, SparkSession


def judge(
    spark: "SparkSession",
    settings: Settings,
    source: Source,
    rows: "DataFrame",
    files: Sequence[str],
    *,
    raw_version: int,
    days_of_several: Collection[date] = (),
) -> "DataFrame":
    """Add typed columns (`typed_<name>`) and `reason`, which is null for a good row.

    Args:
        files: Names of the files that the rows are from.
        days_of_several: Days with more than one file, in the raw table or among these.
        raw_version: Delta version of the raw table; events that other files have there are duplicates here. -1: none.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    rows = rows.withColumns({f"typed_{c.name}": F.expr(f"try_cast(`{c.name}` AS {c.type})") for c in source.columns})
    reasons = [F.col("error"), *(reason for column in source.columns for reason in _column_reasons(column))]
    if source.event_time:
        reasons.append(_wrong_day_reason(source.event_time))
    rows = rows.withColumn("reason", F.coalesce(*reasons))
    if source.time is not None and source.key:
        rows = refuse_repeated_keys(rows, source.key)
        before = read_table(spark, settings, source.raw_table, version=raw_version) if raw_version >= 0 else None
        return refuse_partial_files(rows, source.key, before, files, days=days_of_several) if days_of_several else rows
    if not source.unique:
        return rows
    identity = [f"typed_{name}" for name in source.unique]
    in_order = Window.partitionBy(*identity, F.col("reason").isNull()).orderBy("source_file", "source_line")
    is_repeat = F.row_number().over(in_order) > 1
    if raw_version >= 0:
        raw = read_table(spark, settings, source.raw_table, version=raw_version)
        before = raw.where(~F.col("source_file").isin(list(files)))
        before = before.select(*(F.col(name).alias(f"typed_{name}") for name in source.unique)).distinct()
        rows = rows.join(before.withColumn("is_known", F.lit(True)), identity, "left")
        is_repeat = is_repeat | F.coalesce("is_known", F.lit(False))
    repeat = f"duplicate {', '.join(source.unique)}"
    is_good_row = F.col("reason").isNull() & (F.col("source_line") > 0)
    return rows.withColumn("reason", F.when(is_good_row & is_repeat, F.lit(repeat)).otherwise(F.col("reason")))


def _wrong_day_reason(event_time: str) -> "SparkColumn":
    from pyspark.sql import functions as F

    return F.when(
        F.to_date(f"typed_{event_time}") != F.col("event_day"),
        F.format_string(
            f"{event_time} %s is not on the file's day %s", F.col(event_time), F.col("event_day").cast("string")
        ),
    )


def _column_reasons(column: Column) -> "list[SparkColumn]":
    from pyspark.sql import functions as F

    text, typed = F.col(column.name), F.col(f"typed_{column.name}")
    is_row = F.col("source_line") > 0
    reasons = [
        F.when(
            text.isNotNull() & typed.isNull(),
            F.format_string(f"{column.name} '%s' is not of type {column.type}", text),
        )
    ]
    if column.required:
        reasons.append(F.when(is_row & text.isNull(), F.lit(f"{column.name} is missing")))
    if column.type == "double":
        reasons.append(F.when(F.isnan(typed), F.lit(f"{column.name} is not a number")))
        infinite = F.abs(typed) == F.lit(float("inf"))
        reasons.append(F.when(infinite, F.format_string(f"{column.name} %s is not finite", text)))
    if column.type in ("date", "timestamp"):
        # Spark writes other years, but no other reader of the table accepts them.
        beyond = ~F.year(typed).between(1, 9999)
        reasons.append(F.when(beyond, F.format_string(f"{column.name} %s is outside the years 1 to 9999", text)))
    for bound, breaks, word in (
        (column.minimum, typed < F.lit(column.minimum), "below the minimum"),
        (column.maximum, typed > F.lit(column.maximum), "above the maximum"),
    ):
        if bound is not None:
            reasons.append(F.when(breaks, F.format_string(f"{column.name} %s is {word} {bound:g}", text)))
    return reasons
