"""Plots as SVG, in a page's light and dark colours or, as standalone files, in light colours."""

import io
from collections.abc import Callable
from typing import Any

# Placeholder colours that CSS variables replace, because matplotlib does not support currentColor.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
ACCENT, SECOND, SOFT = "#040404", "#050505", "#060606"
_VARIABLES = {
    INK: ("--ink", "#1c2024"),
    MUTED: ("--muted", "#60646c"),
    LINE: ("--line", "#d9dce0"),
    ACCENT: ("--accent", "#0b6bcb"),
    SECOND: ("--second", "#c2570c"),
    SOFT: ("--soft", "#9aa3ad"),
}
_SIZE = (5.2, 3.4)


def render_svg(
    name: str, plot: Callable[[Any, Any], None], data: Any, *, standalone: bool, height: float | None = None
) -> str:
    """The result of `plot(axes, data)` as an SVG document; `height` is in inches."""
    return apply_colours(draw_svg(name, plot, data, height), standalone=standalone)


def draw_svg(name: str, plot: Callable[[Any, Any], None], data: Any, height: float | None) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**_style(), "svg.hashsalt": name}):
        figure = Figure(figsize=(_SIZE[0], max(height or _SIZE[1], 1.6)), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        plot(axes, data)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def apply_colours(svg: str, *, standalone: bool) -> str:
    for drawn, (variable, light) in _VARIABLES.items():
        svg = svg.replace(drawn, light if standalone else f"var({variable})")
    return svg if standalone else svg[svg.index("<svg") :]


def _style() -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "font.family": ["sans-serif"],
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": LINE,
        "axes.labelcolor": MUTED,
        "axes.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "xtick.color": LINE,
        "ytick.color": LINE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "grid.color": LINE,
        "grid.linewidth": 0.5,
        "axes.grid": True,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.6,
    }
