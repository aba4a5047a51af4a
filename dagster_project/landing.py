"""The landing data of `forecache demo`: the purchases of the CDNOW customers, see data/cdnow/README.md.

`python -m dagster_project.landing` moves the dates of a new home to the present, once.
"""

import gzip
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from itertools import groupby
from pathlib import Path

from dagster_project.purchases import LAST_DAY, PURCHASES, SHIFT, shift_file
from forecache import Source, load_settings

DATA = Path(__file__).parent / "data" / "cdnow" / "CDNOW_master.txt.gz"


def landing_days() -> Iterator[tuple[Source, date, list[tuple[str, str, str, str]]]]:
    """Each day before today, and its rows in the order of the columns of PURCHASES."""
    today = datetime.now(timezone.utc).date()
    with gzip.open(DATA, "rt") as lines:
        next(lines)
        purchases = sorted((line.split() for line in lines), key=lambda fields: fields[1])
    for compact_day, rows in groupby(purchases, key=lambda fields: fields[1]):
        day = date(int(compact_day[:4]), int(compact_day[4:6]), int(compact_day[6:])) + SHIFT
        if day < today:
            yield PURCHASES, day, [(customer, str(day), quantity, amount) for customer, _, quantity, amount in rows]


def move_dates(home: Path, today: date) -> None:
    """Move the dates of a home without landed data by whole weeks: yesterday has data, up to six days are to land."""
    if not shift_file(home).exists() and not any((home / landed).exists() for landed in ("landing", "demo-s3")):
        weeks = -((LAST_DAY + timedelta(days=1) - today) // timedelta(weeks=1))
        home.mkdir(parents=True, exist_ok=True)
        shift_file(home).write_text(str(7 * weeks))


if __name__ == "__main__":
    move_dates(load_settings().home_path, datetime.now(timezone.utc).date())
