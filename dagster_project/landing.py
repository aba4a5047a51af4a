"""The landing data of `forecache demo`: the purchases of the CDNOW customers, see data/cdnow/README.md."""

import gzip
from collections.abc import Iterator
from datetime import date
from itertools import groupby
from pathlib import Path

from dagster_project.purchases import PURCHASES
from forecache import Source

DATA = Path(__file__).parent / "data" / "cdnow" / "CDNOW_master.txt.gz"


def landing_days() -> Iterator[tuple[Source, date, list[tuple[str, str, str, str]]]]:
    """Each day with a purchase, and its rows in the order of the columns of PURCHASES."""
    with gzip.open(DATA, "rt") as lines:
        next(lines)
        purchases = sorted((line.split() for line in lines), key=lambda fields: fields[1])
    for compact_day, rows in groupby(purchases, key=lambda fields: fields[1]):
        day = date(int(compact_day[:4]), int(compact_day[4:6]), int(compact_day[6:]))
        yield PURCHASES, day, [(customer, str(day), quantity, amount) for customer, _, quantity, amount in rows]
