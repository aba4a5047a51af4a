"""Making a page from a template, and writing it so that it appears whole."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from forecache.files import write_durably


def make_page(template: Path, **values: object) -> str:
    """The page of a template that extends `base.html.j2`; its filters are `number`, `took` and those given.

    Args:
        values: What the template names; a function is a filter under its name.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, template.parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, took=took, **{n: f for n, f in values.items() if callable(f)})
    written_at = datetime.now(timezone.utc)
    return environment.get_template(template.name).render(written_at=written_at, **values)


def write_page(path: Path, page: str) -> None:
    """Put a page under its path in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, page)


def number(value: Any, digits: int = 4) -> str:
    """A figure with thousands separators and as many decimals as its size deserves; a dash where there is none."""
    if value is None or value != value:
        return "–"
    if isinstance(value, int) or (value and float(value).is_integer()):
        return f"{int(value):,}"
    return f"{value:,.{digits if abs(value) < 10 else 2}f}".replace("-", "−")


def took(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds >= 60:
        return f"{int(seconds // 60)} min {seconds % 60:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
