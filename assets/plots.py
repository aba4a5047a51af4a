"""Small plots of figures as SVG, which Dagster's UI shows inside its metadata; readable on light and dark pages."""

from collections.abc import Mapping, Sequence
from html import escape

_INK, _BAR, _LINES = "#808080", "#4f81c7", ("#4f81c7", "#d9822b")
_STEP, _LABEL, _BAR_WIDTH = 22, 150, 320
_WIDTH, _HEIGHT, _EDGE = 520, 220, 46


def draw_bars(title: str, counts: Mapping[str, int]) -> str:
    """A horizontal bar for each label, with its count."""
    most = max(counts.values(), default=0) or 1
    parts = [_text(0, 14, title, weight="bold")]
    for place, (label, count) in enumerate(counts.items()):
        y = 26 + place * _STEP
        long = round(_BAR_WIDTH * count / most, 1)
        parts.append(_text(_LABEL - 8, y + 13, label, anchor="end"))
        parts.append(f'<rect x="{_LABEL}" y="{y}" width="{long:g}" height="{_STEP - 6}" rx="2" fill="{_BAR}"/>')
        parts.append(_text(_LABEL + long + 6, y + 13, f"{count:,}"))
    return _svg(_LABEL + _BAR_WIDTH + 80, 30 + _STEP * len(counts), parts)


def draw_lines(title: str, series: Mapping[str, Sequence[float]]) -> str:
    """Lines of one or two series over their places, from 1."""
    values = [value for line in series.values() for value in line]
    low, high = min(values), max(values)
    span, longest = (high - low) or 1.0, max(map(len, series.values()))
    bottom = _HEIGHT - 24

    def at(place: int, value: float) -> str:
        x = _EDGE + (_WIDTH - _EDGE - 8) * (place / max(longest - 1, 1))
        return f"{x:.1f},{bottom - (bottom - 30) * (value - low) / span:.1f}"

    parts = [_text(0, 14, title, weight="bold")]
    for number, (name, line) in enumerate(series.items()):
        points = " ".join(at(place, value) for place, value in enumerate(line))
        colour = _LINES[number % len(_LINES)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(_text(_WIDTH - 8, 14 + 15 * number, name, anchor="end", colour=colour))
    parts += [_text(_EDGE - 6, 34, f"{high:.4g}", anchor="end"), _text(_EDGE - 6, bottom, f"{low:.4g}", anchor="end")]
    parts += [_text(_EDGE, _HEIGHT - 6, "1"), _text(_WIDTH - 8, _HEIGHT - 6, f"{longest}", anchor="end")]
    return _svg(_WIDTH, _HEIGHT, parts)


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", colour: str = _INK) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
    )


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">{"".join(parts)}</svg>'
    )
