"""The newest days of a request log, so that nobody reads years of requests for a thousand of them."""

from datetime import date

import pyarrow as pa
import pytest

from forecache.base.settings import Settings
from forecache.kit.delta.tables import append_rows
from forecache.realtime.log.read import newest_days
from forecache.realtime.log.record import table_of

DAYS = [date(2026, 1, day) for day in (1, 2, 3)]


@pytest.mark.parametrize(("rows", "num_days"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (99, 3)])
def test_the_newest_days_that_have_so_many_rows_are_chosen(settings: Settings, rows: int, num_days: int) -> None:
    for day in DAYS:
        for _ in range(2):
            logged = pa.table({"request_id": ["x", "y"], "day": [day] * 2})
            append_rows(settings, table_of("search"), logged, partition_by=["day"])
    assert newest_days(settings, "search", rows=rows) == {*DAYS[-num_days:]}
