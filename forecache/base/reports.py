"""HTML pages made from templates, and plots as SVG in a page's light and dark colours or, standalone, in light ones."""

import io
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from forecache.base.files import write_durably

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
        "text.color": INK,
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), LINE),
        **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), MUTED),
        **dict.fromkeys(("font.size", "axes.labelsize"), 9),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 8),
        "axes.linewidth": 0.8,
        "grid.linewidth": 0.5,
        "lines.linewidth": 1.6,
        **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    }


def make_page(template: Path, *, environment: str, **values: object) -> str:
    """Render a template that extends `base.html.j2`, given its variables; the name of an environment is in its head.

    Its filters are `number`, `took`, and the functions among the values under their names.
    """
    import jinja2

    engine = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, template.parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters.update(
        number=format_number, took=format_duration, **{n: f for n, f in values.items() if callable(f)}
    )
    written_at = datetime.now(timezone.utc)
    return engine.get_template(template.name).render(written_at=written_at, environment=environment, **values)


def write_page(path: Path, page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, page)


def format_number(value: Any, digits: int = 4) -> str:
    """A figure with thousands separators, with fewer decimals from 10 on; a dash for None and NaN."""
    if value is None or value != value:
        return "–"
    if isinstance(value, int) or (value and float(value).is_integer()):
        return f"{int(value):,}"
    return f"{value:,.{digits if abs(value) < 10 else 2}f}".replace("-", "−")


def format_duration(seconds: float) -> str:
    """A duration in minutes and seconds, seconds, or milliseconds, by its size."""
    if seconds >= 60:
        return f"{int(seconds // 60)} min {seconds % 60:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
