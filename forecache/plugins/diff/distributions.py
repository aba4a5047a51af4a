"""Distributions of the columns of two partitions, in the same bins, each counted in one pass over all rows.

The bins and the quantiles come from a sample of the keys, by hash; counts, means and extremes are of all rows. Numbers
are counted as they are, a vector by its Euclidean length, a list by the number of its items, texts by the most frequent
ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecache.base.statistics import equal_mass_edges, psi
from forecache.lake.query import quote_name, quote_text
from forecache.plugins.diff.partition import Kind

Values = NDArray[Any]
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_PSI_BINS, _BARS, _CATEGORIES = 10, 30, 10
COUNTED = ("number", "vector", "list")
OTHERS = "others"


@dataclass(frozen=True)
class Distribution:
    """The values of a column on one side.

    Attributes:
        unknown: Rows with null or NaN.
        quantiles: By share, of the sample.
        bars: Rows in each of the bins of `Bins.bars`, or of `Bins.categories` and then of all others.
    """

    rows: int
    unknown: int
    mean: float | None = None
    deviation: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    quantiles: Mapping[float, float] = field(default_factory=dict)
    bars: Sequence[int] = ()


@dataclass(frozen=True)
class Bins:
    """The bins of a column, the same for both sides.

    Attributes:
        judged: Inner edges of ten bins with about as many rows before; a value equal to an edge counts above it.
        bars: Inner edges of bins of equal width, which a plot shows; the first and last bin are open.
        categories: The most frequent texts of both sides.
    """

    judged: Sequence[float] = ()
    bars: Sequence[float] = ()
    categories: Sequence[str] = ()

    @property
    def edges(self) -> list[float]:
        return sorted({*self.judged, *self.bars})

    def merge(self, counts: Sequence[int], edges: Sequence[float]) -> list[int]:
        """Counts in bins between all edges, merged to those between some of them."""
        places = [0, *(self.edges.index(edge) + 1 for edge in edges), len(counts)]
        return [int(sum(counts[low:high])) for low, high in zip(places[:-1], places[1:], strict=True)]


def measure(name: str, kind: Kind) -> str:
    """SQL of the number by which a value is counted, as a double."""
    column = quote_name(name)
    if kind == "vector":
        return f"sqrt(list_sum(list_transform({column}, lambda x: coalesce(x, 0)::DOUBLE * coalesce(x, 0)::DOUBLE)))"
    return f"len({column})::DOUBLE" if kind == "list" else f"{column}::DOUBLE"


def known_number(name: str, kind: Kind) -> str:
    """SQL of the same number, null if it is NaN."""
    number = measure(name, kind)
    return f"CASE WHEN NOT isnan({number}) THEN {number} END"


def choose_bins(kind: Kind, before: Values, after: Values) -> Bins:
    """Choose the bins from samples of both sides: float64 with NaN for unknown, or object of texts."""
    if kind in ("text", "boolean"):
        known = [str(value) for values in (before, after) for value in values if value is not None]
        names, counts = np.unique(np.array(known, dtype=object), return_counts=True)
        order = np.lexsort((names.astype(str), -counts))[:_CATEGORIES]
        return Bins(categories=[str(names[place]) for place in order])
    finite = np.concatenate([values[np.isfinite(values)] for values in (before, after)])
    if not len(finite):
        return Bins()
    judged = equal_mass_edges(before if np.isfinite(before).any() else after, _PSI_BINS)
    judged = [edge for edge in judged if np.isfinite(edge)]
    distinct = np.unique(finite)
    if len(distinct) <= _BARS // 2:  # a bar for each value
        return Bins(judged, distinct[1:].tolist())
    low, high = np.quantile(finite, [0.005, 0.995])
    if low == high:
        low, high = distinct[0], distinct[-1]
    return Bins(judged, np.linspace(low, high, _BARS - 1).tolist())


def describe_all(
    connection: Any, view: str, kinds: Mapping[str, Kind], bins: Mapping[str, Bins], samples: Mapping[str, Values]
) -> tuple[dict[str, Distribution], dict[str, list[int]]]:
    """The distribution of each column of a view, and its counts in the bins of `judged`, unknown ones last."""
    parts: list[str] = ["count(*)"]
    sizes: dict[str, int] = {}
    for name, kind in kinds.items():
        some = _aggregates(name, kind, bins[name])
        sizes[name] = len(some)
        parts += some
    row = connection.execute(f"SELECT {', '.join(parts)} FROM {view}").fetchone()
    rows, at = row[0], 1
    found: dict[str, Distribution] = {}
    judged: dict[str, list[int]] = {}
    for name, kind in kinds.items():
        values = row[at : at + sizes[name]]
        at += sizes[name]
        found[name], judged[name] = _read(kind, bins[name], rows, values, samples.get(name))
    return found, judged


def _aggregates(name: str, kind: Kind, bins: Bins) -> list[str]:
    column = quote_name(name)
    if kind in ("text", "boolean"):
        some = [f"count(*) FILTER ({column}::VARCHAR = {quote_text(each)})" for each in bins.categories]
        return [f"count({column})", *some]
    if kind not in COUNTED:
        return [f"count({column})"]
    number = measure(name, kind)
    known = known_number(name, kind)
    finite = f"CASE WHEN isfinite({number}) THEN {number} END"
    # The upper bound of a bin of DuckDB belongs to it.
    bounds = [*np.nextafter(bins.edges, -np.inf).tolist(), float("inf")]
    listed = ", ".join(f"'{bound!r}'::DOUBLE" for bound in bounds)
    return [
        f"count({known})", f"avg({finite})", f"stddev_samp({finite})", f"min({known})", f"max({known})",
        f"histogram({known}, [{listed}])",
    ]  # fmt: skip


def _read(
    kind: Kind, bins: Bins, rows: int, values: Sequence[Any], sample: Values | None
) -> tuple[Distribution, list[int]]:
    unknown = rows - values[0]
    if kind in ("text", "boolean"):
        bars = [*values[1:], values[0] - sum(values[1:])]
        return Distribution(rows, unknown, bars=bars), [*bars, unknown]
    if kind not in COUNTED:
        return Distribution(rows, unknown), []
    _, mean, deviation, minimum, maximum, counts = values
    by_bin = list((counts or {}).values()) or [0] * (len(bins.edges) + 1)
    known = np.array([]) if sample is None else sample[np.isfinite(sample)]
    quantiles = dict(zip(QUANTILES, np.quantile(known, QUANTILES).tolist(), strict=True)) if len(known) else {}
    bars = bins.merge(by_bin, bins.bars)
    judged = [*bins.merge(by_bin, bins.judged), unknown]
    return Distribution(rows, unknown, mean, deviation, minimum, maximum, quantiles, bars), judged


def population_stability(before: Sequence[int], after: Sequence[int]) -> float | None:
    """The population stability index between counts in the same bins; None without counts on both sides."""
    return psi(before, after) if sum(before) and sum(after) else None
