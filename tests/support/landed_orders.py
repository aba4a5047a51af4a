"""A source of orders, and files of it that land."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from forecache.base.settings import Settings
from forecache.declare import Column, Source
from forecache.lake.query import query

D1, D2, D3 = date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)
HEADER = "order_id,customer_id,at,amount\n"

ORDERS = Source(
    "orders",
    columns=(
        Column("order_id", "string"),
        Column("customer_id", "string"),
        Column("at", "timestamp"),
        Column("amount", "double", minimum=0, maximum=1000),
    ),
    event_time="at",
    unique=("order_id",),
    start=D1,
)

Land = Callable[[str, str | bytes], Path]


def landing(settings: Settings) -> Land:
    """What writes a file of orders, by its name and content, as if it had landed."""
    folder = Path(settings.landing_uri) / ORDERS.name
    folder.mkdir(parents=True)

    def write(name: str, content: str | bytes) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rows(settings: Settings, sql: str) -> list[dict[str, Any]]:
    return query(settings, sql).to_pylist()
