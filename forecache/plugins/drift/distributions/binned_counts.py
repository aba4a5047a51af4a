"""Counts the scores of as-of dates in bins, with Spark or over Arrow batches."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from forecache.base.settings import Settings
from forecache.base.statistics import bin_counts, bin_of
from forecache.declare import AS_OF
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table, read_table

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import SparkSession

Bins = Sequence[float] | Sequence[str]
"""Inner edges of bins of numbers, or the names of classes."""


def binned_counts(
    spark: "SparkSession | None",
    settings: Settings,
    table: str,
    column: str,
    nights: Sequence[date],
    edges: Bins,
) -> dict[date, list[int]]:
    """Count rows of each as-of date in each bin: below the first edge, between two, from the last on.

    For classes: rows of each class, then of all others. Nulls and dates without rows are left out. It takes one
    aggregation in Spark, or one pass over batches if there is no session.
    """
    if spark is not None:
        return _count_in_spark(spark, settings, table, column, nights, edges)
    counted: dict[date, list[int]] = {}
    dataset = open_dataset(open_table(settings, table), partitions=[(AS_OF, "in", [n.isoformat() for n in nights])])
    for batch in dataset.to_batches(columns=[column, AS_OF], batch_size=131_072):
        days = batch.column(AS_OF)
        for day in days.unique().to_pylist():
            bins = _bin_counts(batch.filter(_is_of_day(days, day)).column(column).drop_null(), edges)
            counted[day] = [a + int(b) for a, b in zip(counted.get(day, [0] * len(bins)), bins, strict=True)]
    return counted


def are_classes(edges: Bins) -> bool:
    """True if bins are the names of classes."""
    return bool(edges) and isinstance(edges[0], str)


def _bin_counts(values: "pa.Array", edges: Bins) -> "NDArray[np.int64]":
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not are_classes(edges):
        return bin_counts([float(edge) for edge in edges], values.to_numpy(zero_copy_only=False))
    places = pc.index_in(values, value_set=pa.array(edges, pa.string())).fill_null(len(edges))
    return np.bincount(places.to_numpy(zero_copy_only=False), minlength=len(edges) + 1)


def _is_of_day(days: object, day: date) -> object:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.equal(days, pa.scalar(day))


def _count_in_spark(
    spark: "SparkSession",
    settings: Settings,
    table: str,
    column: str,
    nights: Sequence[date],
    edges: Bins,
) -> dict[date, list[int]]:
    from pyspark.sql import functions as F

    frame = read_table(spark, settings, table).where(F.col(AS_OF).isin(list(nights)) & F.col(column).isNotNull())
    counted: dict[date, list[int]] = {}
    if are_classes(edges):
        place = F.coalesce(*(F.when(F.col(column) == F.lit(name), F.lit(i)) for i, name in enumerate(edges)))
        bins = F.coalesce(place, F.lit(len(edges)))
    else:
        bins = bin_of(F.col(column), [float(edge) for edge in edges])
    for row in frame.groupBy(AS_OF, bins.alias("bin")).count().collect():
        counted.setdefault(row[AS_OF], [0] * (len(edges) + 1))[row["bin"]] += row["count"]
    return counted
