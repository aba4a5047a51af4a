"""Counts many columns in bins at once, nulls in a bin of their own: in Spark, or over Arrow batches in this process.

A text is counted by category: named categories have a bin each, all others share one. A vector is counted by its
Euclidean length.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from forecache.base.statistics import bin_of

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

BINS = 10

Edges = Mapping[str, Sequence[Any]]
"""By column, the inner edges of its bins; for a text, the categories that have a bin of their own."""
Counts = dict[str, list[int]]


def count_batches(batches: Iterable["pa.RecordBatch"], edges: Edges) -> Counts:
    """Count rows in each bin: below the first edge, between two, from the last on; and, as the last count, null or NaN.

    For a text: other categories, then each of the named ones, then null.
    """
    counts = {name: np.zeros(len(cuts) + 2, dtype=np.int64) for name, cuts in edges.items()}
    for batch in batches:
        for name, cuts in edges.items():
            counts[name] += np.bincount(_bin_numbers(batch.column(name), cuts), minlength=len(cuts) + 2)
    return {name: [int(count) for count in found] for name, found in counts.items()}


def _bin_numbers(column: "pa.Array", cuts: Sequence[Any]) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.type):
        found = pc.index_in(column, pa.array(cuts, pa.string()))
        known = pc.fill_null(pc.add(found, 1), 0).to_numpy(zero_copy_only=False)
        return np.where(column.is_valid().to_numpy(zero_copy_only=False), known, len(cuts) + 1)
    values = numbers_of(column)
    return np.where(np.isnan(values), len(cuts) + 1, np.searchsorted(cuts, values, side="right"))


def numbers_of(column: "pa.Array") -> np.ndarray:
    """Convert to float64 [n], NaN for null; a vector gives its length, in which an unknown number counts as zero."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_list(column.type):
        return column.to_numpy(zero_copy_only=False).astype(np.float64)
    squares = pc.fill_null(column.flatten(), 0.0).to_numpy(zero_copy_only=False).astype(np.float64) ** 2
    rows = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    lengths = np.sqrt(np.bincount(rows, weights=squares, minlength=len(column)))
    return np.where(column.is_valid().to_numpy(zero_copy_only=False), lengths, np.nan)


def value_ranges(batches: Iterable["pa.RecordBatch"]) -> dict[str, list[float]]:
    """Return the smallest and largest known value of each column of numbers; for vectors, of their lengths."""
    import pyarrow as pa

    found: dict[str, list[float]] = {}
    for batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            values = np.array([]) if pa.types.is_string(column.type) else numbers_of(column)
            known = values[~np.isnan(values)]
            if len(known):
                low, high = found.get(name, (np.inf, -np.inf))
                found[name] = [min(low, float(known.min())), max(high, float(known.max()))]
    return found


def count_frame(frame: "DataFrame", edges: Edges) -> Counts:
    """Count the rows of a Spark frame as `count_batches` does, in one aggregation."""
    from pyspark.sql import functions as F

    cells, kinds = [], dict(frame.dtypes)
    for name, cuts in edges.items():
        cells.append(F.struct(F.lit(name).alias("name"), _bin_column(kinds[name], name, cuts).alias("bin")))
    counts = {name: [0] * (len(cuts) + 2) for name, cuts in edges.items()}
    binned = frame.select(F.explode(F.array(*cells)).alias("cell")).groupBy("cell.name", "cell.bin").count()
    for row in binned.collect():
        counts[row["name"]][row["bin"]] = row["count"]
    return counts


def _bin_column(kind: str, name: str, cuts: Sequence[Any]) -> "Column":
    from pyspark.sql import functions as F

    value = F.col(name)
    if kind == "string":
        found = F.array_position(F.array(*(F.lit(cut) for cut in cuts)).cast("array<string>"), value)
        return F.when(value.isNull(), len(cuts) + 1).otherwise(found.cast("int"))
    if kind.startswith("array"):
        value = F.sqrt(
            F.aggregate(value, F.lit(0.0), lambda total, x: total + F.coalesce(x.cast("double"), F.lit(0.0)) ** 2)
        )
    value = value.cast("double")
    return F.when(value.isNull() | F.isnan(value), len(cuts) + 1).otherwise(bin_of(value, cuts))


def every_nth_row(batches: Iterable["pa.RecordBatch"], step: int) -> Iterator["pa.RecordBatch"]:
    """Yield every `step`-th row."""
    position = 0
    for batch in batches:
        first = -position % step
        position += batch.num_rows
        yield batch.take(np.arange(first, batch.num_rows, step))
