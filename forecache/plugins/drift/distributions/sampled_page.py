"""The page of a sampled report: figures and a small plot of each column of a date and of its reference."""

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecache.base.reports.page import make_page
from forecache.base.statistics import Distance, bin_counts, distance, equal_mass_edges
from forecache.declare import Effect, Pipeline
from forecache.plugins.drift.bins import BINS
from forecache.plugins.drift.distributions.drift_report import DriftReport

_TEMPLATE = Path(__file__).with_name("sampled_report.html.j2")
_BARS = 30
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class SampledColumnDrift:
    """The drift of a column; pairs are (date, reference).

    Attributes:
        effect: None if it is not judged.
        unknown: Share of rows that are null or not a number.
        plot: Both distributions as SVG.
    """

    name: str
    distance: Distance
    effect: Effect | None
    means: tuple[float, float]
    unknown: tuple[float, float]
    plot: str


def sampled_page(
    pipeline: Pipeline, night: date, current: Any, reference: Any, *, beside: str, report: DriftReport
) -> str:
    """Make the page as HTML.

    Args:
        current, reference: pandas frames of the same numeric columns, each with a known value on both sides.
        beside: Name of the reference.
        report: The drift of the date's output on all rows; its figures are shown for the output's column.
    """
    columns = [
        column_drift(pipeline, name, *(frame[name].to_numpy(dtype=np.float64) for frame in (current, reference)))
        for name in current.columns
    ]
    columns = [_use_report_figures(column, report) for column in columns]
    columns.sort(key=lambda column: -column.distance.psi)
    rows = (len(current), len(reference))
    return make_page(_TEMPLATE, pipeline=pipeline, night=night, rows=rows, reference=beside, columns=columns)


def _use_report_figures(column: SampledColumnDrift, report: DriftReport) -> SampledColumnDrift:
    """Replace the figures of the output's column by those of the report, so that page and check agree."""
    reference = report.main_reference
    if column.name != report.output or not reference:
        return column
    return replace(column, distance=report.distances[reference], effect=report.effect(reference))


def column_drift(pipeline: Pipeline, name: str, current: Floats, reference: Floats) -> SampledColumnDrift:
    """Compare two float64 [n] samples in bins of the reference, unknown values in a bin of their own."""
    sides = (current, reference)
    known = [values[~np.isnan(values)] for values in sides]
    edges = equal_mass_edges(reference, BINS)
    counts = [
        [*bin_counts(edges, some).tolist(), len(side) - len(some)] for some, side in zip(known, sides, strict=True)
    ]
    apart = distance(counts[1], counts[0])
    return SampledColumnDrift(
        name,
        apart,
        pipeline.drift.effect(apart.psi, apart.js),
        (float(known[0].mean()), float(known[1].mean())),
        (1 - len(known[0]) / len(current), 1 - len(known[1]) / len(reference)),
        _plot(*known),
    )


def _plot(current: Floats, reference: Floats) -> str:
    """Draw the shares in bars of equal width: the date filled, the reference as a line, without the outer percent."""
    low, high = np.quantile(np.concatenate([current, reference]), (0.01, 0.99))
    edges = np.linspace(low, high if high > low else low + 1, _BARS + 1)
    shares = [np.histogram(np.clip(side, low, edges[-1]), edges)[0] / len(side) for side in (current, reference)]
    top = max(float(each.max()) for each in shares)
    night, before = (" ".join(_steps(each / top)) for each in shares)
    line = 'fill="none" stroke="var(--ink)" vector-effect="non-scaling-stroke"'
    return (
        f'<svg viewBox="0 0 {_BARS} 10" preserveAspectRatio="none" role="img" aria-label="distribution">'
        f'<path d="M0,10 {night} L{_BARS},10 Z" fill="var(--accent)" fill-opacity="0.35"/>'
        f'<path d="M0,10 {before} L{_BARS},10" {line}/></svg>'
    )


def _steps(shares: Floats) -> list[str]:
    return [f"L{bar},{10 - 10 * share:.2f} H{bar + 1}" for bar, share in enumerate(shares)]
