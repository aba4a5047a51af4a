"""Publish gates: checks of a new version against the current one before it may become current."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from forecache.base.errors import CheckError
from forecache.base.statistics import bin_counts, psi, quantile_edges
from forecache.declare import Publish
from forecache.serve.store.manifest import Manifest

_BINS = 20


def publish_statistics(rows: int, nulls: Mapping[str, int], samples: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Statistics for the next version's gates: rows of the batch, null counts, and a histogram of each numeric field.

    Histograms are scaled to all values. Streamed rows are not in these figures.
    """
    histograms = {name: _histogram(rows - nulls[name], values) for name, values in samples.items()}
    return {"rows": rows, "nulls": dict(nulls), "histograms": histograms}


def _histogram(rows: int, values: np.ndarray) -> dict[str, list[float]]:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return {"edges": [], "counts": [0.0]}
    edges = quantile_edges(finite, _BINS)
    return {"edges": edges.tolist(), "counts": (bin_counts(edges, finite) * (rows / len(finite))).tolist()}


def measure_drift(current: Manifest, samples: Mapping[str, np.ndarray]) -> dict[str, float]:
    """PSI of each numeric field's new values against the current version."""
    histograms = current.statistics.get("histograms", {})
    return {
        name: psi(histograms[name]["counts"], bin_counts(histograms[name]["edges"], values))
        for name, values in samples.items()
        if name in histograms
    }


def check_gates(
    rules: Publish, *, current: Manifest | None, rows: int, nulls: Mapping[str, int], drifted: Mapping[str, float]
) -> None:
    """Raise CheckError naming every gate that fails."""
    reasons = []
    before = 0 if current is None else current.statistics["rows"]
    if rules.max_row_change is not None and before:
        change = abs(rows - before) / before
        if change > rules.max_row_change:
            reasons.append(
                f"the rows go from {before:,} to {rows:,}, a change of {change:.0%}"
                f" (max_row_change {rules.max_row_change:.0%})"
            )
    most_nulls = rules.max_null_share or 0.0
    for name, count in nulls.items():
        if rows and count / rows > most_nulls:
            reasons.append(f"{count:,} of {rows:,} values of {name!r} are null (max_null_share {most_nulls:g})")
    if rules.max_psi is not None:
        reasons += [
            f"{name!r} has drifted from version {current.version if current else '?'} by a population stability index"
            f" of {value:.3f} (max_psi {rules.max_psi:g})"
            for name, value in drifted.items()
            if value > rules.max_psi
        ]
    if reasons:
        raise CheckError(
            f"The publish gates say no: {'; '.join(reasons)}.",
            remedy="The served version is unchanged. Look at the rows, or change `publish` in the declaration.",
        )
