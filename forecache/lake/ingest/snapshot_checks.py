"""Checks of snapshot files: a file with a key twice, or with only a part of the state, is quarantined as a whole."""

from collections.abc import Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


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
    """Refuse a file that shares no key with the other files of its day: it is a part, and one file has to be the state.

    Args:
        rows: Judged rows of the files, with `reason`.
        before: The raw table; None if there is none.
        days: Days with more than one file.
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
