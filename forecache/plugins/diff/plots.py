"""Plots of a comparison as inline SVG in the colours of the page, light and dark: distributions and contributions."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from forecache.plugins.diff.compare_partitions import ColumnDiff
from forecache.plugins.diff.distributions import OTHERS, Distribution
from forecache.plugins.diff.texts import value_text

WIDTH, HEIGHT = 420, 150
_AXIS, _TEXT = 18, 11
_ROW, _NAME, _FIGURE, _LETTERS = 24, 150, 95, 22


def distribution_plot(column: ColumnDiff) -> str:
    """The shares of rows in each bin before (filled) and after (line), or of each text as two bars; "": no values."""
    sides = [each for each in (column.before, column.after) if each is not None]
    if not sides or not any(sum(each.bars) for each in sides):
        return ""
    if column.kind in ("text", "boolean"):
        return _category_bars(column)
    return _histogram(column)


def _shares(side: Distribution | None, bins: int) -> list[float]:
    if side is None or not side.rows:
        return [0.0] * bins
    return [count / side.rows for count in side.bars]


def _histogram(column: ColumnDiff) -> str:
    edges = list(column.bins.bars)
    bins = len(edges) + 1
    before, after = (_shares(side, bins) for side in (column.before, column.after))
    top, wide, base = max(*before, *after, 1e-12), WIDTH / bins, HEIGHT - _AXIS
    heights = [[round(share / top * (base - 6), 1) for share in side] for side in (before, after)]
    filled = "".join(
        f'<rect x="{place * wide:.1f}" y="{base - high:.1f}" width="{wide:.1f}" height="{high}" fill="var(--soft)" '
        'fill-opacity="0.45"/>'
        for place, high in enumerate(heights[0])
        if high
    )
    steps = " ".join(
        f"{place * wide:.1f},{base - high:.1f} {(place + 1) * wide:.1f},{base - high:.1f}"
        for place, high in enumerate(heights[1])
    )
    line = f'<polyline points="{steps}" fill="none" stroke="var(--accent)" stroke-width="1.6"/>'
    ground = f'<line x1="0" x2="{WIDTH}" y1="{base}" y2="{base}" stroke="var(--line)"/>'
    low, high = _ends(column)
    texts = _text(0, HEIGHT - 4, low) + _text(WIDTH, HEIGHT - 4, high, "end")
    label = f"{column.name}: shares of rows before and after, from {low} to {high}"
    return _svg(HEIGHT, f"{filled}{ground}{line}{texts}", label)


def _ends(column: ColumnDiff) -> tuple[str, str]:
    """The smallest and the largest value of both sides, in words: the outer bins are open."""
    sides = [each for each in (column.before, column.after) if each is not None]
    low = [each.minimum for each in sides if each.minimum is not None]
    high = [each.maximum for each in sides if each.maximum is not None]
    return (value_text(float(min(low))) if low else "", value_text(float(max(high))) if high else "")


def _category_bars(column: ColumnDiff) -> str:
    names = [*column.bins.categories, OTHERS]
    before, after = (_shares(side, len(names)) for side in (column.before, column.after))
    rows = [row for row in zip(names, before, after, strict=True) if row[0] != OTHERS or row[1] or row[2]]
    top, room = max(*before, *after, 1e-12), WIDTH - _NAME - _FIGURE
    parts = []
    for place, (name, old, new) in enumerate(rows):
        y = place * _ROW + 3
        parts.append(_text(_NAME - 8, y + 13, _short(name) or '""', "end"))
        for offset, share, colour in ((0, old, "var(--soft)"), (9, new, "var(--accent)")):
            width = round(share / top * room, 1)
            parts.append(f'<rect x="{_NAME}" y="{y + offset}" width="{width}" height="8" fill="{colour}"/>')
        parts.append(_text(WIDTH, y + 13, f"{old:.1%} → {new:.1%}", "end"))
    return _svg(len(rows) * _ROW + 6, "".join(parts), f"{column.name}: shares of rows before and after")


def contribution_plot(features: Sequence[Mapping[str, Any]]) -> str:
    """Draw what each feature adds to an answer before and after, as bars to both sides of zero."""
    known = [
        (each["name"], each["adds_before"] or 0.0, each["adds_after"] or 0.0)
        for each in features
        if each["adds_before"] is not None or each["adds_after"] is not None
    ]
    if not known:
        return ""
    most = max((max(abs(old), abs(new)) for _, old, new in known), default=0.0) or 1.0
    room = WIDTH - _NAME - 4
    middle, scale = _NAME + room / 2, room / 2 / most
    parts = [
        f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="0" y2="{len(known) * _ROW}" stroke="var(--line)"/>'
    ]  # fmt: skip
    for place, (name, old, new) in enumerate(known):
        y = place * _ROW + 3
        parts.append(_text(_NAME - 8, y + 13, _short(name), "end"))
        for offset, value, colour in ((0, old, "var(--soft)"), (9, new, "var(--accent)")):
            x = min(middle, middle + value * scale)
            parts.append(
                f'<rect x="{x:.1f}" y="{y + offset}" width="{abs(value) * scale:.1f}" height="8" fill="{colour}"/>'
            )
    return _svg(len(known) * _ROW + 4, "".join(parts), "What each feature adds before and after")


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    place = f'x="{x:g}" y="{y:g}" font-size="{_TEXT}" fill="var(--muted)" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"


def _svg(height: float, content: str, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{content}</svg>'
    )
