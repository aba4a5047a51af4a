"""The source: orders of a shop."""

from datetime import date

from forecache import Column, Source

ORDERS = Source(
    name="orders",
    description="Orders of a shop, one file a day.",
    columns=(
        Column("order_id", "bigint"),
        Column("customer", "string"),
        Column("item", "string"),
        Column("amount", "double", minimum=0),
        Column("ordered_at", "timestamp", description="In UTC."),
    ),
    event_time="ordered_at",
    unique=("order_id",),
    start=date(2026, 1, 1),
)
