"""HTML pages made from templates, and written so that they appear whole."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from forecache.base.files import write_durably


def make_page(template: Path, **values: object) -> str:
    """Render a template that extends `base.html.j2`; its filters are `number`, `took` and the given ones.

    Args:
        values: Variables of the template; a function is a filter under its name.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, template.parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=format_number, took=format_duration, **{n: f for n, f in values.items() if callable(f)}
    )
    written_at = datetime.now(timezone.utc)
    return environment.get_template(template.name).render(written_at=written_at, **values)


def write_page(path: Path, page: str) -> None:
    """Write a page to its path in one step."""
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
