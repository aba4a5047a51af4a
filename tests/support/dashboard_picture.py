"""Draws the panels of the Grafana dashboard with a Prometheus's answers: titles, grid, units and legends as declared.

It is no Grafana: it shows that the dashboard's queries have answers, and what these are like.
"""

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from io import BytesIO
from typing import Any

from dashboard_queries import Marks, Series, Shown, asked
from dashboard_units import in_unit, size_of, written
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from monitoring_services import Prometheus

COLUMNS, MOST_LINES = 24, 3
UNIT_PX, WIDTH_PX, DPI = 32, 1320, 100
GAP_PX, SMALL = 5, 6.8
COLOURS = ("#73BF69", "#F2CC0C", "#5794F2", "#FF9830", "#F2495C", "#B877D9", "#8AB8FF", "#37872D", "#A16A00", "#C4162A")
INK, QUIET, LINE, PAPER = "#24292e", "#6e7781", "#d8dee4", "#f4f5f7"
Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels."""


def draw(panels: Sequence[dict[str, Any]], server: Prometheus, shown: Shown, marks: Marks) -> tuple[bytes, list[str]]:
    """A PNG of panels in their grid, and the titles of those without data."""
    top = min(panel["gridPos"]["y"] for panel in panels)
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) - top
    figure = Figure(figsize=(WIDTH_PX / DPI, rows * UNIT_PX / DPI), dpi=DPI, facecolor=PAPER)
    canvas, empty = FigureCanvasAgg(figure), []
    for panel in panels:
        place = panel["gridPos"]
        column = WIDTH_PX / COLUMNS
        box = (
            place["x"] * column + GAP_PX, (place["y"] - top) * UNIT_PX + GAP_PX,
            place["w"] * column - 2 * GAP_PX, place["h"] * UNIT_PX - 2 * GAP_PX,
        )  # fmt: skip
        if panel["type"] == "row":
            _text(figure, box[0], box[1] + 4, panel["title"], size=11, weight="bold")
        elif not _PANELS[panel["type"]](figure, box, panel, asked(panel, server, shown), shown, marks):
            empty.append(panel["title"])
    picture = BytesIO()
    canvas.print_png(picture)
    return picture.getvalue(), empty


def _frame(figure: Figure, box: Box, title: str) -> Any:
    """An empty panel, whose coordinates are pixels from its upper left corner."""
    left, top, width, height = box
    whole = figure.bbox.height
    axes = figure.add_axes(
        (left / WIDTH_PX, 1 - (top + height) / whole, width / WIDTH_PX, height / whole), facecolor="white"
    )
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(LINE)
    axes.text(10, 18, title, fontsize=8.5, fontweight="bold", color=INK, va="center")
    return axes


def _without_data(axes: Any, box: Box) -> bool:
    axes.text(box[2] / 2, box[3] / 2 + 8, "No data", fontsize=11, color=QUIET, ha="center", va="center")
    return False


def _timeseries(
    figure: Figure, box: Box, panel: dict[str, Any], series: list[Series], shown: Shown, marks: Marks
) -> bool:
    frame, unit = _frame(figure, box, panel["title"]), panel["fieldConfig"]["defaults"]["unit"]
    with_values = [each for each in series if any(map(math.isfinite, each.values))]
    if not with_values:
        return _without_data(frame, box)
    legend = _legend(frame, box, [each.name for each in with_values])
    left, right, above = 62, 12, 34
    inner = (box[0] + left, box[1] + above, box[2] - left - right, box[3] - above - 26 - legend)
    whole = figure.bbox.height
    axes = figure.add_axes(
        (inner[0] / WIDTH_PX, 1 - (inner[1] + inner[3]) / whole, inner[2] / WIDTH_PX, inner[3] / whole)
    )
    for number, each in enumerate(with_values):
        times = [datetime.fromtimestamp(at, timezone.utc) for at in each.times]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(times, each.values, color=colour, linewidth=1.2, marker="." if len(times) == 1 else "")
    axes.set_xlim(*(datetime.fromtimestamp(at, timezone.utc) for at in (shown.start, shown.end)))
    most = max(value for each in with_values for value in each.values if math.isfinite(value))
    axes.set_ylim(0 if panel["fieldConfig"]["defaults"].get("min") == 0 else None, most * 1.08 if most > 0 else 1)
    low, high = axes.get_ylim()
    size, name = size_of(max(abs(low), abs(high)), unit)
    ticks = [size * tick for tick in MaxNLocator(4).tick_values(low / size, high / size)]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value / size) + name))
    for at, colour in marks:
        axes.axvline(datetime.fromtimestamp(at, timezone.utc), color=colour, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.xaxis.set_major_locator(AutoDateLocator(maxticks=6))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M", tz=timezone.utc))
    axes.tick_params(labelsize=SMALL, colors=QUIET, length=0)
    axes.grid(color=LINE, linewidth=0.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return True


def _legend(frame: Any, box: Box, names: Sequence[str]) -> float:
    """Draw the names of series at the bottom of a panel, in as many lines as they take, three at most; the height."""
    lines: list[list[tuple[float, int]]] = [[]]
    at, renderer, more = 10.0, frame.figure.canvas.get_renderer(), 0
    for number, name in enumerate(names):
        probe = frame.text(0, 0, name, fontsize=SMALL)
        width = 16 + probe.get_window_extent(renderer).width + 8
        probe.remove()
        if at + width > box[2] - (70 if len(lines) == MOST_LINES else 6) and lines[-1]:
            if len(lines) == MOST_LINES:
                more = len(names) - number
                break
            lines.append([])
            at = 10.0
        lines[-1].append((at, number))
        at += width
    for row, line in enumerate(lines):
        y = box[3] - 9 - 13 * (len(lines) - 1 - row)
        for x, number in line:
            frame.plot([x, x + 10], [y, y], color=COLOURS[number % len(COLOURS)], linewidth=2.5)
            frame.text(x + 14, y, names[number], fontsize=SMALL, color=INK, va="center")
    if more:
        told = f"and {more} more"
        frame.text(box[2] - 10, box[3] - 9, told, fontsize=SMALL, ha="right", va="center", color=QUIET)
    return 13.0 * len(lines)


def _stat(figure: Figure, box: Box, panel: dict[str, Any], series: list[Series], shown: Shown, marks: Marks) -> bool:
    defaults = panel["fieldConfig"]["defaults"]
    frame = _frame(figure, box, panel["title"])
    if not series:
        return _without_data(frame, box)
    steps = defaults.get("thresholds", {}).get("steps", [])
    for number, each in enumerate(series):
        middle = box[2] * (number + 0.5) / len(series)
        value = each.values[-1]
        reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
        colour = {"green": "#37872D", "red": "#C4162A"}.get(reached[-1], INK) if reached else "#37872D"
        size = 19 if len(series) < 3 else 14
        frame.text(
            middle,
            box[3] * 0.52,
            in_unit(value, defaults["unit"]),
            fontsize=size,
            color=colour,
            ha="center",
            va="center",
            fontweight="bold",
        )
        frame.text(middle, box[3] * 0.82, each.name, fontsize=7.5, color=QUIET, ha="center", va="center")
    return True


def _table(figure: Figure, box: Box, panel: dict[str, Any], series: list[Series], shown: Shown, marks: Marks) -> bool:
    frame, unit = _frame(figure, box, panel["title"]), panel["fieldConfig"]["defaults"]["unit"]
    if not series:
        return _without_data(frame, box)
    for row, each in enumerate(series):
        y = 46 + 22 * row
        if y > box[3] - 16:
            frame.text(12, y - 4, f"and {len(series) - row} more", fontsize=7, color=QUIET, va="center")
            break
        frame.text(12, y, each.name, fontsize=8, color=INK, va="center")
        frame.text(box[2] - 12, y, in_unit(each.values[-1], unit), fontsize=8, color=INK, va="center", ha="right")
        frame.plot([10, box[2] - 10], [y + 11, y + 11], color=LINE, linewidth=0.6)
    return True


_PANELS = {"timeseries": _timeseries, "stat": _stat, "table": _table}


def _text(figure: Figure, x: float, y: float, text: str, *, size: float, weight: str) -> None:
    figure.text(x / WIDTH_PX, 1 - y / figure.bbox.height, text, fontsize=size, fontweight=weight, color=INK, va="top")
