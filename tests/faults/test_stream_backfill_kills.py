"""A backfill that is killed goes on where it stopped: each landed event becomes one row."""

import signal
from datetime import timedelta
from pathlib import Path

import pytest
from dying import dies_at
from landed_payments import land_payments, make_night
from stream_sample import DAY, a_stream, payment, release, table_rows
from warm import assert_valid_log, start

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import stream_step
from forecache.plugins.backfill import recompute
from forecache.plugins.backfill.backfill import backfill

pytestmark = pytest.mark.faults


def backfill_until(home: Path, step: str, times: int) -> None:
    """Take the day in, and die at a step, when it comes for the `times`th time."""
    stream_step.on_step = dies_at(step, times)
    backfill(load_settings(home=home), a_stream(), DAY, DAY, rows_a_commit=10)


def test_a_killed_backfill_goes_on_where_it_stopped(settings: Settings) -> None:
    release(settings)
    make_night(settings, DAY - timedelta(days=1), [0, 1, 2])
    land_payments(settings, DAY, [payment(number) for number in range(55)])
    rows = []
    for step, times, committed in (("rows written", 3, 20), ("rows committed", 2, 40)):
        process = start(backfill_until, settings.home_path, step, times)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        before, rows = rows, table_rows(settings, "stream_payments")
        assert len(rows) == committed
        assert rows[: len(before)] == before
    (day,) = backfill(settings, a_stream(), DAY, DAY)
    assert (day.landed, day.added) == (55, 15)
    assert [row["payment_id"] for row in table_rows(settings, "stream_payments")] == list(range(55))
    assert_valid_log(settings.table_uri("stream_payments"))
    # Tiles and repeats were built anew at each start, and are those of one run.
    found = recompute(settings, a_stream())
    assert (found.rows, found.compared, found.difference) == (55, 55, None)
