"""Plot of the cost table: a bar for each line, by its price or, if prices are missing, by its hours."""

from pathlib import Path
from typing import IO, Any

from forecache.operations.cost.line import PARTS
from forecache.operations.cost.report import Report

_COLOURS = dict(zip(PARTS, ("#4c72b0", "#dd8452", "#c44e52", "#8c8c8c", "#55a868"), strict=True))
_MOST = 24


def plot(report: Report, file: Path | IO[Any], *, kind: str | None = None) -> None:
    """Plot a bar for each line, by its price or, if prices are missing, by its hours.

    Args:
        kind: "png" or "svg"; None: by the ending of the file's name.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    priced = not report.missing_prices
    lines = [line for line in report.lines if priced or line.unit != "GB"]
    values = {id(line): (line.price or 0.0) if priced else line.amount for line in lines}
    lines.sort(key=lambda line: values[id(line)])
    left_out = lines[:-_MOST] if len(lines) > _MOST else []
    shown = lines[len(left_out) :]
    figure = Figure(figsize=(9, 1.2 + 0.3 * max(1, len(shown))), layout="constrained")
    axes = figure.subplots()
    names = [f"{line.subject or 'all'}: {line.what}" for line in shown]
    bars = axes.barh(
        range(len(shown)), [values[id(line)] for line in shown], color=[_COLOURS[line.part] for line in shown]
    )
    axes.bar_label(bars, [f"{values[id(line)]:,.3g}" for line in shown], padding=3, fontsize=8)
    axes.set_yticks(range(len(shown)), names, fontsize=9)
    axes.set_xlabel("price of a day, on demand" if priced else "hours of cores, devices and replicas a day")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    used = [part for part in PARTS if any(line.part == part for line in shown)]
    handles = [Patch(color=_COLOURS[part], label=part) for part in used]
    axes.legend(handles=handles, frameon=False, loc="lower right", fontsize=9)
    note = f"; {len(left_out)} smaller ones not shown" if left_out else ""
    axes.set_title(f"Mean of {report.days:.1f} days{note}", fontsize=10, loc="left")
    figure.savefig(file, dpi=130, format=kind)
