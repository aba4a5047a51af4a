"""Charts as SVG. Sizes are attributes and colours are classes, as the page's policy allows no styles in elements."""

from collections.abc import Sequence
from math import floor, log10

from forecache.kit.metrics.page import merge_first_buckets
from forecache.plugins.status.page.markup import Markup, tag
from forecache.serve.reader.status.format_text import microseconds

WIDTH, HEIGHT = 600, 120
_ROUND = (1, 2, 5, 10)
_FIRST_BUCKET = 4
"""Durations below 16 us are one bar."""


def round_up(value: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next((step * power for step in _ROUND if value <= step * power * (1 + 1e-9)), 10 * power)


def time_chart(
    at_s: Sequence[float],
    lines: Sequence[tuple[str, Sequence[float]]],
    *,
    now: float,
    span_s: float,
    top: float,
    label: str,
    gaps: bool = False,
) -> Markup:
    """Lines over the time up to `now`.

    Args:
        at_s: Unix time of each value.
        lines: Class and values; one of the class `area` is filled below.
        top: The value at the upper edge.
        label: Description for screen readers.
        gaps: Whether a line is interrupted at values of 0.
    """
    xs = [round((at - now + span_s) / span_s * WIDTH, 1) for at in at_s]
    shapes = [tag("line", x1=0, x2=WIDTH, y1=y, y2=y, class_="grid") for y in (1, HEIGHT / 2, HEIGHT - 1)]
    for name, values in lines:
        for run in _runs(xs, values, gaps=gaps):
            points = [f"{x:g},{round(HEIGHT - 1 - min(value / top, 1) * (HEIGHT - 4), 1):g}" for x, value in run]
            if name == "area":
                area = f"{run[0][0]:g},{HEIGHT} {' '.join(points)} {run[-1][0]:g},{HEIGHT}"
                shapes.append(tag("polygon", points=area, class_="fill"))
            shapes.append(tag("polyline", points=" ".join(points), class_=f"curve {name}"))
    return tag(
        "svg", shapes, viewBox=f"0 0 {WIDTH} {HEIGHT}", preserveAspectRatio="none", role="img", aria_label=label,
        class_="chart",
    )  # fmt: skip


def _runs(xs: Sequence[float], values: Sequence[float], *, gaps: bool) -> list[list[tuple[float, float]]]:
    """Runs of points to join; at a gap a new run begins."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, value in zip(xs, values, strict=True):
        if x < 0:
            continue
        if gaps and not value:
            runs.append([])
        else:
            runs[-1].append((x, value))
    return [run for run in runs if run]


def sparkline(values: Sequence[float], *, label: str) -> Markup:
    """A small line without axes."""
    most, last = max(values, default=0.0) or 1.0, max(len(values) - 1, 1)
    points = " ".join(f"{place / last * 100:.1f},{23 - value / most * 21:.1f}" for place, value in enumerate(values))
    return tag(
        "svg", tag("polyline", points=points, class_="curve"), viewBox="0 0 100 24", preserveAspectRatio="none",
        role="img", aria_label=label, class_="spark",
    )  # fmt: skip


def average_every(values: Sequence[float], every: int) -> list[float]:
    """Means of `every` values each, the newest last."""
    start = len(values) % every
    return [sum(values[place : place + every]) / every for place in range(start, len(values), every)]


def histogram(buckets: Sequence[int], marks: Sequence[tuple[str, float | None]]) -> tuple[Markup, str, str]:
    """Bars of a histogram whose bucket i counts less than 2**i microseconds, and the durations at its two edges.

    Args:
        marks: (name, microseconds) of figures in its description, such as quantiles.
    """
    counts = merge_first_buckets(_FIRST_BUCKET, buckets)
    used = [place for place, number in enumerate(counts) if number]
    first, last = max(0, used[0] - 1), min(len(counts) - 1, max(used[-1] + 1, used[0] + 7))
    shown, most = counts[first : last + 1], max(counts)
    wide = WIDTH / len(shown)
    bars = []
    for place, number in enumerate(shown):
        high = round(max(number / most * (HEIGHT - 4), 1.5), 1) if number else 0
        x, y = round(place * wide + 1, 1), round(HEIGHT - high, 1)
        bars += [tag("rect", x=x, y=y, width=round(wide - 2, 1), height=high, class_="bar")] if number else []
    low = 0.0 if first == 0 else 2.0 ** (first + _FIRST_BUCKET - 1)
    top = 2.0 ** (last + _FIRST_BUCKET)
    told = ", ".join(f"{name} {microseconds(value)}" for name, value in marks)
    chart = tag(
        "svg", tag("line", x1=0, x2=WIDTH, y1=HEIGHT - 1, y2=HEIGHT - 1, class_="grid"), bars,
        viewBox=f"0 0 {WIDTH} {HEIGHT}", preserveAspectRatio="none", role="img",
        aria_label=f"Distribution of latencies: {told}", class_="chart",
    )  # fmt: skip
    return chart, microseconds(low), microseconds(top)


def share_bar(parts: Sequence[tuple[str, float]], *, label: str) -> Markup:
    """A bar that is divided by shares; the class of each part is given."""
    total = sum(value for _, value in parts) or 1.0
    at, shapes = 0.0, []
    for name, value in parts:
        wide = value / total * 100
        shapes.append(tag("rect", x=round(at, 2), y=0, width=round(wide, 2), height=10, class_=name))
        at += wide
    return tag(
        "svg", shapes, viewBox="0 0 100 10", preserveAspectRatio="none", role="img", aria_label=label, class_="shares"
    )
