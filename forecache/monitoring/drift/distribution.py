"""Scores of each night in bins, counted by Spark or over Arrow batches."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from forecache.lake.delta.tables import open_table, read_table
from forecache.pipeline import AS_OF
from forecache.settings import Settings
from forecache.statistics import bin_counts, bin_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def binned_counts(
    spark: "SparkSession | None",
    settings: Settings,
    table: str,
    column: str,
    nights: Sequence[date],
    edges: Sequence[float],
) -> dict[date, list[int]]:
    """Rows of each night in each bin: below the first edge, between two, from the last on; nulls are left out.

    One aggregation in Spark, or one pass in batches where there is no session; nights without rows are left out.
    """
    if spark is not None:
        return _count_in_spark(spark, settings, table, column, nights, edges)
    counted: dict[date, list[int]] = {}
    dataset = open_table(settings, table).to_pyarrow_dataset(
        partitions=[(AS_OF, "in", [n.isoformat() for n in nights])]
    )
    for batch in dataset.to_batches(columns=[column, AS_OF], batch_size=131_072):
        days = batch.column(AS_OF)
        for day in days.unique().to_pylist():
            values = batch.filter(_equal(days, day)).column(column).drop_null().to_numpy(zero_copy_only=False)
            bins = bin_counts(edges, values)
            counted[day] = [a + int(b) for a, b in zip(counted.get(day, [0] * len(bins)), bins, strict=True)]
    return counted


def _equal(days: object, day: date) -> object:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.equal(days, pa.scalar(day))


def _count_in_spark(
    spark: "SparkSession",
    settings: Settings,
    table: str,
    column: str,
    nights: Sequence[date],
    edges: Sequence[float],
) -> dict[date, list[int]]:
    from pyspark.sql import functions as F

    frame = read_table(spark, settings, table).where(F.col(AS_OF).isin(list(nights)) & F.col(column).isNotNull())
    counted: dict[date, list[int]] = {}
    for row in frame.groupBy(AS_OF, bin_of(F.col(column), edges).alias("bin")).count().collect():
        counted.setdefault(row[AS_OF], [0] * (len(edges) + 1))[row["bin"]] += row["count"]
    return counted
