"""Payments, with what came of them."""

from datetime import date

from forecache import Column, Source

PAYMENTS = Source(
    name="payments",
    description="One row for each payment; whether it was a fraud is known a week later.",
    columns=(
        Column("payment_id", "string"),
        Column("user_id", "bigint"),
        Column("amount", "double", minimum=0),
        Column("country", "string"),
        Column("paid_at", "timestamp"),
        Column("fraud", "int", minimum=0, maximum=1),
    ),
    event_time="paid_at",
    unique=("payment_id",),
    start=date(2026, 1, 1),
    end=date(2026, 3, 31),
)
