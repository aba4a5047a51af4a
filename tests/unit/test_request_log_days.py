"""The newest rows of a request log, for which nobody reads years of requests."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from forecache.base.settings import Settings
from forecache.kit.delta.log import active_files
from forecache.kit.delta.tables import append_rows, open_table
from forecache.realtime.log.read import read_newest
from forecache.realtime.log.record import table_of

DAYS = [date(2026, 1, day) for day in (1, 2, 3)]


@pytest.mark.parametrize(("rows", "num_days"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (99, 3)])
def test_only_the_newest_days_that_have_so_many_rows_are_read(settings: Settings, rows: int, num_days: int) -> None:
    for day in DAYS:
        for _ in range(2):
            logged = pa.table({"request_id": ["x", "y"], "day": [day] * 2})
            append_rows(settings, table_of("search"), logged, partition_by=["day"])
    for file in active_files(open_table(settings, table_of("search"))):
        if file.partition["day"] < DAYS[-num_days].isoformat():
            (Path(settings.table_uri(table_of("search"))) / file.path).unlink()
    found = read_newest(settings, "search", rows=rows, columns=["request_id", "day"])
    assert [(row["request_id"], row["day"]) for row in found] == [(each, day) for day in DAYS for each in "xyxy"][
        -rows:
    ]
