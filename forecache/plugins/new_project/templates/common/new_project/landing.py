"""Made-up orders until yesterday, for `forecache demo` and `make data`. Not needed once real files arrive."""

import random
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, timezone

from forecache import Source, load_settings
from forecache.testing import land_demo_data
from new_project.orders import ORDERS

NUM_CUSTOMERS, NUM_KINDS, ITEMS_OF_A_KIND = 500, 6, 10
_DAY_S = 86_400
Row = tuple[int, str, str, float, datetime]


def landing_days() -> Iterator[tuple[Source, date, list[Row]]]:
    """Each day from the first of the source to yesterday, and its rows; a day has the same rows in every call."""
    today = datetime.now(timezone.utc).date()
    for number in range((today - ORDERS.start).days):
        yield ORDERS, ORDERS.start + timedelta(days=number), orders_of(number)


def orders_of(number: int) -> list[Row]:
    """The rows of a day by its number, in the order of their times, with values in the order of the columns.

    Each customer has a chance of ordering on a day, a usual amount, and a kind of items that it mostly orders.
    """
    chance, midnight = random.Random(f"day {number}"), datetime.combine(ORDERS.start + timedelta(days=number), time())
    rows = []
    for customer in range(NUM_CUSTOMERS):
        person = random.Random(f"customer {customer}")
        rate, usual_amount, liked = person.random() ** 2 / 2, person.uniform(5, 100), person.randrange(NUM_KINDS)
        if chance.random() < rate:
            kind = liked if chance.random() < 0.7 else chance.randrange(NUM_KINDS)
            item = kind * ITEMS_OF_A_KIND + min(chance.randrange(ITEMS_OF_A_KIND), chance.randrange(ITEMS_OF_A_KIND))
            at = midnight + timedelta(seconds=chance.randrange(_DAY_S))
            rows.append((f"c{customer:04d}", f"item{item:02d}", round(usual_amount * chance.uniform(0.5, 1.5), 2), at))
    rows.sort(key=lambda row: row[-1])
    return [(number * NUM_CUSTOMERS + place, *row) for place, row in enumerate(rows)]


def main() -> None:
    """Write the landing files that are not there yet."""
    for stage in land_demo_data(load_settings()):
        print(f"{stage.rows} rows of {stage.subject}, {stage.details['files']} new files")


if __name__ == "__main__":
    main()
