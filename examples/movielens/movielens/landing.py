"""The landing files of the example: the ratings, a file a day."""

from collections.abc import Iterator
from datetime import date, timedelta

import pyarrow.compute as pc

from forecache import Source
from movielens.pipelines.films import RATINGS, ratings


def landing_days() -> Iterator[tuple[Source, date, list[tuple[object, ...]]]]:
    """Each day and its rows in the order of the columns of RATINGS; days without a rating have none."""
    found = ratings()
    assert RATINGS.end is not None
    for number in range((RATINGS.end - RATINGS.start).days + 1):
        day = RATINGS.start + timedelta(days=number)
        rows = found.filter(pc.equal(found["day"], day)).to_pydict()
        yield RATINGS, day, list(zip(*rows.values(), strict=True))
