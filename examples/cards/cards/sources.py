"""Card payments: a file a day in the landing zone, and a topic that has each payment as it happens."""

from datetime import timedelta

from cards.simulator import DAYS, START
from forecache import Column, Json, Source, Topic

PAYMENTS = Source(
    name="card_payments",
    description="One row for each payment; whether it was a fraud is known a week later.",
    columns=(
        Column("transaction_id", "bigint"),
        Column("customer_id", "bigint"),
        Column("terminal_id", "bigint"),
        Column("amount", "double", minimum=0),
        Column("paid_at", "timestamp"),
        Column("fraud", "int", minimum=0, maximum=1),
    ),
    event_time="paid_at",
    unique=("transaction_id",),
    start=START,
    end=START + timedelta(days=DAYS - 1),
)

AS_THEY_HAPPEN = Topic(
    name="card_payments",
    topic="card-payments",
    source=PAYMENTS,
    format=Json(),
    without=("fraud",),
)
