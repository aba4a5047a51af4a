"""Judges landing rows in one Spark expression: good, or bad with the reason.

A file of a snapshot that has a key twice, or only a part of the state, is quarantined as a whole.
"""

from collections.abc import Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING

from forecache.base.settings import Settings
from forecache.declare import Column, Source
from forecache.kit.delta.tables import read_table

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
    """Add typed columns (`typed_<name>`) and `reason`, which is null for a good row, to the rows of files.

    Events that other files have in the raw table at `raw_version` (-1: there is none) are duplicates here.
    `days_of_several` have more than one file, in the raw table or among these.
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
            text.isNotNull() & typed.isNull(), F.format_string(f"{column.name} '%s' is not of type {column.type}", text)
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


def refuse_repeated_keys(rows: "DataFrame", key: Sequence[str]) -> "DataFrame":
    """Refuse a file that has a key twice, with the reason in its line 0: which of the rows is right is unknown."""
    from pyspark.sql import functions as F

    typed = [f"typed_{name}" for name in key]
    good = rows.where(F.col("reason").isNull() & (F.col("source_line") > 0))
    counts = good.groupBy("source_file", *typed).agg(
        F.count("*").alias("times"), F.min("source_line").alias("first"), F.max("source_line").alias("last")
    )
    told = ", ".join(f"{name} %s" for name in key)
    texts = [F.col(name).cast("string") for name in typed]
    why = F.format_string(f"it has the key {told} in lines %d and %d", *texts, F.col("first"), F.col("last"))
    twice = counts.where("times > 1").groupBy("source_file").agg(F.min_by(why, "first").alias("repeated"))
    return _drop_refused_files(rows.join(F.broadcast(twice), "source_file", "left"))


def refuse_partial_files(
    rows: "DataFrame", key: Sequence[str], before: "DataFrame | None", files: Sequence[str], *, days: Collection[date]
) -> "DataFrame":
    """Refuse a file that shares no key with the others of its day: it is a part, and one file has to be the state.

    `before` is the raw table, `days` are those with more than one file.
    """
    from pyspark.sql import functions as F

    typed = [f"typed_{name}" for name in key]
    good = rows.where(F.col("reason").isNull() & (F.col("source_line") > 0))
    known = good.select("event_day", "source_file", *typed)
    if before is not None:
        others = before.where(~F.col("source_file").isin(list(files)))
        named = (F.col(name).alias(f"typed_{name}") for name in key)
        known = known.unionByName(others.select("event_day", "source_file", *named))
    known = known.where(F.col("event_day").isin(sorted(days)))
    in_files = known.groupBy("event_day", *typed).agg(F.collect_set("source_file").alias("in"))
    sharing = in_files.where(F.size("in") > 1).select(F.explode("in").alias("source_file")).distinct()
    by_day = known.groupBy("event_day").agg(F.sort_array(F.collect_set("source_file")).alias("of_day"))
    alone = by_day.where(F.size("of_day") > 1).select("of_day", F.explode("of_day").alias("source_file"))
    other = F.array_min(F.array_remove("of_day", F.col("source_file")))
    why = F.format_string("it has no key of '%s', a file of the same day: a state is one file", other)
    parts = alone.join(sharing, "source_file", "left_anti").select("source_file", why.alias("repeated"))
    return _drop_refused_files(rows.join(F.broadcast(parts), "source_file", "left"))


def _drop_refused_files(rows: "DataFrame") -> "DataFrame":
    """Drop the rows of files that have a reason in `repeated`, and put the reason into their line 0."""
    from pyspark.sql import functions as F

    is_refused = F.col("repeated").isNotNull()
    rows = rows.where(~is_refused | (F.col("source_line") == 0))
    return rows.withColumns(
        {
            "reason": F.coalesce("repeated", "reason"),
            "error": F.coalesce("repeated", "error"),
            "counted_rows": F.when(~is_refused, F.col("counted_rows")),
        }
    ).drop("repeated")
