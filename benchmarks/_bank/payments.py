"""Made-up payments: amounts are quarters, so that sums are equal to the bit in any order."""

import json
import os
import random
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any

from forecache import Column, Json, Source, Topic

START, END = date(2026, 3, 1), date(2026, 3, 31)
FIRST_NIGHT = date(2026, 3, 20)
USERS, _SHARE, _FRAUDS = 80, 0.5, 0.1

PAYMENTS = Source(
    name="payments",
    description="One row for each payment; whether it was a fraud is known two days later.",
    columns=(
        Column("payment_id", "bigint"),
        Column("user_id", "bigint"),
        Column("amount", "double", minimum=0),
        Column("country", "string"),
        Column("paid_at", "timestamp"),
        Column("fraud", "int", minimum=0, maximum=1),
    ),
    event_time="paid_at",
    unique=("payment_id",),
    start=START,
    end=END,
)

TOPIC = os.environ.get("BANK_TOPIC", "payments")
AS_THEY_HAPPEN = Topic(name="payments", topic=TOPIC, source=PAYMENTS, format=Json(), without=("fraud",))


def payments_of(day: date) -> list[tuple[Any, ...]]:
    """The rows of a day in the order of time; the same ones each time."""
    rng = random.Random(day.toordinal())
    users = sorted(user for user in range(USERS) if rng.random() < _SHARE)
    seconds = sorted(rng.sample(range(86_400), len(users)))
    rng.shuffle(users)
    return [_payment(rng, day, *each) for each in enumerate(zip(users, seconds, strict=True))]


def _payment(rng: random.Random, day: date, place: int, paid: tuple[int, int]) -> tuple[Any, ...]:
    user, second = paid
    fraud = rng.random() < _FRAUDS
    amount = (4 + user % 37 + rng.randint(0, 40)) * (6 if fraud else 1) / 4
    country = "abroad" if rng.random() < (0.6 if fraud else 0.05) else "home"
    at = datetime(day.year, day.month, day.day, tzinfo=timezone.utc) + timedelta(seconds=second)
    number = (day - START).days * 1000 + place
    return number, user, amount, country, at.strftime("%Y-%m-%dT%H:%M:%SZ"), int(fraud)


def landing_file(day: date) -> bytes:
    """The day's file, with a row that belongs into quarantine."""
    bad = ((day - START).days * 1000 + 999, 0, -1.0, "home", f"{day}T12:00:00Z", 0)
    header = ",".join(column.name for column in PAYMENTS.columns)
    return "\n".join([header, *(",".join(map(str, row)) for row in [*payments_of(day), bad]), ""]).encode()


def messages_of(day: date) -> Iterator[bytes]:
    """The day's messages in the topic."""
    names = [column.name for column in PAYMENTS.columns if column.name != "fraud"]
    for row in payments_of(day):
        yield json.dumps(dict(zip(names, row[:-1], strict=True))).encode()
