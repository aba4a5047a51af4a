"""Made-up visits for `forecache demo`. Not needed once real files arrive in the landing zone."""

import random
from collections.abc import Iterator
from datetime import date, timedelta

from forecache import Source
from new_project.pipelines.returns import VISITS

NUM_VISITORS, NUM_DAYS = 400, 59


def landing_days() -> Iterator[tuple[Source, date, list[tuple[str, date, int]]]]:
    """Each day of the source and its rows, with values in the order of its columns. Every call yields the same rows."""
    chance = random.Random(7)
    rates = [chance.random() ** 2 / 2 for _ in range(NUM_VISITORS)]
    for number in range(NUM_DAYS):
        day = VISITS.start + timedelta(days=number)
        visitors = [visitor for visitor, rate in enumerate(rates) if chance.random() < rate]
        yield VISITS, day, [(f"v{visitor:04d}", day, chance.randint(1, 9)) for visitor in visitors]
