"""How far two distributions of scores are apart: binned counts, stability index, Jensen-Shannon distance."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from forecache.lake.delta.tables import open_table, read_table
from forecache.pipeline import AS_OF
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# A share below this counts as this much, so that an empty bin does not make the index infinite.
_SMALLEST_SHARE = 1e-4


@dataclass(frozen=True)
class Distance:
    """How far a distribution moved from a reference.

    Attributes:
        psi: Population stability index: below 0.1 stable, above 0.25 a shift (Siddiqi 2006).
        js: Jensen-Shannon distance, base 2: 0 where equal, 1 where nothing overlaps (Endres and Schindelin 2003).
    """

    psi: float
    js: float
    rows: int
    reference_rows: int


def distance(reference: Sequence[int], counts: Sequence[int]) -> Distance:
    """Compare counts in the same bins; both must have rows."""
    old, new = np.asarray(reference, float), np.asarray(counts, float)
    p, q = old / old.sum(), new / new.sum()
    middle = (p + q) / 2
    divergence = (_entropy_against(p, middle) + _entropy_against(q, middle)) / 2
    p, q = np.maximum(p, _SMALLEST_SHARE), np.maximum(q, _SMALLEST_SHARE)
    psi = float(((q - p) * np.log(q / p)).sum())
    return Distance(psi, float(np.sqrt(max(0.0, divergence))), int(new.sum()), int(old.sum()))


def merge_bins(edges: Sequence[float], counts: Sequence[int], num_bins: int) -> tuple[list[float], list[int]]:
    """Merge neighbouring bins until each holds at least 1/`num_bins` of the rows; returns inner edges and counts."""
    least = sum(counts) / num_bins
    kept: list[float] = []
    merged: list[int] = [0]
    for edge, count in zip([*edges, None], counts, strict=True):
        merged[-1] += count
        if edge is not None and merged[-1] >= least:
            kept.append(edge)
            merged.append(0)
    if kept and merged[-1] < least:
        rest = merged.pop()
        merged[-1] += rest
        kept.pop()
    return kept, merged


def _entropy_against(p: np.ndarray, q: np.ndarray) -> float:
    there = p > 0
    return float((p[there] * np.log2(p[there] / q[there])).sum())


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
            bins = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
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
    position = sum(((F.col(column) >= F.lit(float(edge))).cast("int") for edge in edges), F.lit(0))
    counted: dict[date, list[int]] = {}
    for row in frame.groupBy(AS_OF, position.alias("bin")).count().collect():
        counted.setdefault(row[AS_OF], [0] * (len(edges) + 1))[row["bin"]] += row["count"]
    return counted
