"""Counts many columns in bins at once, nulls in a bin of their own: in Spark, or over Arrow batches in this process.

A text is counted by category: named categories have a bin each, all others share one. A vector is counted by its
Euclidean length.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from forecache.base.settings import Settings
from forecache.base.statistics import bin_counts, bin_of
from forecache.declare import AS_OF, Pipeline
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table, read_table
from forecache.lake.engine import decide_engine
from forecache.lake.query import query
from forecache.lake.stage_runner import partition_rows

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

    kinds = dict(frame.dtypes)
    cells = [
        F.struct(F.lit(name).alias("name"), _bin_column(kinds[name], name, cuts).alias("bin"))
        for name, cuts in edges.items()
    ]
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


Bins = Sequence[float] | Sequence[str]
"""Inner edges of bins of numbers, or the names of classes."""


def binned_counts(
    settings: Settings, table: str, column: str, nights: Sequence[date], edges: Bins
) -> dict[date, list[int]]:
    """Count rows of each as-of date in each bin: below the first edge, between two, from the last on.

    For classes: rows of each class, then of all others. Nulls and dates without rows are left out. It takes one
    pass over batches, or for millions of rows one aggregation in Spark.
    """
    import pyarrow.compute as pc

    counted: dict[date, list[int]] = {}
    engine = decide_engine(settings, rows=sum(partition_rows(settings, table, nights, column=AS_OF).values()))
    if engine.name == "spark":
        from pyspark.sql import functions as F

        frame = read_table(engine.session(), settings, table).where(
            F.col(AS_OF).isin(list(nights)) & F.col(column).isNotNull()
        )
        if are_classes(edges):
            place = F.coalesce(*(F.when(F.col(column) == F.lit(name), F.lit(i)) for i, name in enumerate(edges)))
            bins = F.coalesce(place, F.lit(len(edges)))
        else:
            bins = bin_of(F.col(column), [float(edge) for edge in edges])
        for row in frame.groupBy(AS_OF, bins.alias("bin")).count().collect():
            counted.setdefault(row[AS_OF], [0] * (len(edges) + 1))[row["bin"]] += row["count"]
        return counted
    dataset = open_dataset(open_table(settings, table), partitions=[(AS_OF, "in", [n.isoformat() for n in nights])])
    for batch in dataset.to_batches(columns=[column, AS_OF], batch_size=131_072):
        for day in batch.column(AS_OF).unique():
            found = _bin_counts(batch.filter(pc.equal(batch.column(AS_OF), day)).column(column).drop_null(), edges)
            before = counted.get(day.as_py(), [0] * len(found))
            counted[day.as_py()] = [a + b for a, b in zip(before, found.tolist(), strict=True)]
    return counted


def are_classes(edges: Bins) -> bool:
    """True if bins are the names of classes."""
    return bool(edges) and isinstance(edges[0], str)


def _bin_counts(values: "pa.Array", edges: Bins) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not are_classes(edges):
        return bin_counts([float(edge) for edge in edges], values.to_numpy(zero_copy_only=False))
    places = pc.index_in(values, value_set=pa.array(edges, pa.string())).fill_null(len(edges))
    return np.bincount(places.to_numpy(zero_copy_only=False), minlength=len(edges) + 1)


@dataclass(frozen=True)
class Bin:
    """Rows whose output lies in [low, high); the last bin includes `high`."""

    low: float
    high: float
    rows: int


def output_bins(settings: Settings, pipeline: Pipeline, night: date) -> list[Bin]:
    """Ten bins of equal width from the as-of date's smallest to its largest output; one if all are equal, none if the
    first output is not of numbers."""
    spec = pipeline.output_specs[0]
    if not spec.numbers:
        return []
    rows = query(
        settings,
        f"""
        with night as (
            select "{spec.judged_column}" as value from {pipeline.prediction_table}
            where {AS_OF} = date '{night.isoformat()}'
        ), ends as (select min(value) as low, max(value) as high from night)
        select low, high, least({BINS - 1}, floor((value - low) / nullif(high - low, 0) * {BINS}))::int as bin,
            count(*) as rows
        from night, ends group by all order by bin
        """,
    ).to_pylist()
    if not rows:
        return []
    low, high = rows[0]["low"], rows[0]["high"]
    if low == high:
        return [Bin(low, high, rows[0]["rows"])]
    counts, width = {row["bin"]: row["rows"] for row in rows}, (high - low) / BINS
    return [Bin(low + i * width, low + (i + 1) * width, counts.get(i, 0)) for i in range(BINS)]


def segment_rows(settings: Settings, pipeline: Pipeline, night: date) -> dict[str, dict[str, int]]:
    """Number of rows by declared segment and label, in the order of the declaration, labels without rows included; and
    by class of the first output, the commonest first."""

    def count_rows(column: str) -> dict[str, int]:
        sql = f"""
            select "{column}" as label, count(*) as rows from {pipeline.prediction_table}
            where {AS_OF} = date '{night.isoformat()}' group by 1 order by 2 desc, 1
        """
        return {row["label"]: row["rows"] for row in query(settings, sql).to_pylist()}

    spec = pipeline.output_specs[0]
    counts = {spec.name: count_rows(spec.name)} if spec.kind == "classes" else {}
    for segment in pipeline.segments:
        found = count_rows(segment.name)
        counts[segment.name] = {label: found.get(label, 0) for label in segment.labels}
    return counts
