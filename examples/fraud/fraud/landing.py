"""Made-up payments of three months: a fraud is large for its user, at night, and often from abroad."""

import random
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any

from forecache import Source
from fraud.sources import PAYMENTS

_USERS, _SHARE, _FRAUDS = 300, 0.5, 0.04


def landing_days() -> Iterator[tuple[Source, date, list[tuple[Any, ...]]]]:
    """Each day and its rows, in the order of the columns of PAYMENTS; the same ones each time."""
    rng = random.Random(11)
    usual = [rng.lognormvariate(3, 0.8) for _ in range(_USERS)]
    assert PAYMENTS.end is not None
    for number in range((PAYMENTS.end - PAYMENTS.start).days + 1):
        day = PAYMENTS.start + timedelta(days=number)
        rows = [_payment(rng, day, user, usual[user]) for user in range(_USERS) if rng.random() < _SHARE]
        yield PAYMENTS, day, [(f"{day:%m%d}-{place}", *row) for place, row in enumerate(rows)]


def _payment(rng: random.Random, day: date, user: int, usual: float) -> tuple[Any, ...]:
    fraud = rng.random() < _FRAUDS
    amount = usual * rng.lognormvariate(1.3 if fraud else 0, 0.6)
    hour = rng.choice([0, 1, 2, 3, 23]) if fraud and rng.random() < 0.6 else rng.randint(7, 22)
    country = "abroad" if rng.random() < (0.5 if fraud else 0.05) else "home"
    at = datetime(day.year, day.month, day.day, hour, rng.randint(0, 59), rng.randint(0, 59), tzinfo=timezone.utc)
    return user, round(amount, 2), country, at.strftime("%Y-%m-%dT%H:%M:%SZ"), int(fraud)
