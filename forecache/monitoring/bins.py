"""Counting many columns in bins at once, nulls in a bin of their own: in Spark, or over Arrow batches here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from forecache.statistics import bin_of

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

BINS = 10

Edges = Mapping[str, Sequence[float]]
Counts = dict[str, list[int]]


def count_batches(batches: Iterable["pa.RecordBatch"], edges: Edges) -> Counts:
    """Rows in each bin: below the first edge, between two, from the last on; and, as the last count, null or NaN."""
    counts = {name: np.zeros(len(cuts) + 2, dtype=np.int64) for name, cuts in edges.items()}
    for batch in batches:
        for name, cuts in edges.items():
            values = batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
            bins = np.where(np.isnan(values), len(cuts) + 1, np.searchsorted(cuts, values, side="right"))
            counts[name] += np.bincount(bins, minlength=len(cuts) + 2)
    return {name: [int(count) for count in found] for name, found in counts.items()}


def count_frame(frame: "DataFrame", edges: Edges) -> Counts:
    """What `count_batches` counts, of a Spark frame in one aggregation."""
    from pyspark.sql import functions as F

    cells = []
    for name, cuts in edges.items():
        value = F.col(name).cast("double")
        unknown = value.isNull() | F.isnan(value)
        cells.append(
            F.struct(
                F.lit(name).alias("name"), F.when(unknown, len(cuts) + 1).otherwise(bin_of(value, cuts)).alias("bin")
            )
        )
    counts = {name: [0] * (len(cuts) + 2) for name, cuts in edges.items()}
    binned = frame.select(F.explode(F.array(*cells)).alias("cell")).groupBy("cell.name", "cell.bin").count()
    for row in binned.collect():
        counts[row["name"]][row["bin"]] = row["count"]
    return counts


def every(batches: Iterable["pa.RecordBatch"], step: int) -> Iterator["pa.RecordBatch"]:
    """Each `step`-th row."""
    position = 0
    for batch in batches:
        first = -position % step
        position += batch.num_rows
        yield batch.take(np.arange(first, batch.num_rows, step))
