"""Maintenance beside a running stream, killed at any step: each row is there once, at its position."""

from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from deltalake import DeltaTable
from maintenance_lake import maintain_often, maintain_until
from waiting import wait_for
from warm import assert_valid_log, processes, start
from watched_streams import StreamTable, write_often

from forecache.base.settings import load_settings
from forecache.plugins.maintenance.table import maintain_table

pytestmark = [pytest.mark.slow, pytest.mark.faults]
TABLE = "stream_cards"


def test_closed_hours_are_merged_by_two_at_once_beside_a_running_writer_and_after_kills(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", code_version="fixed")
    table, now = StreamTable(settings), datetime.now(timezone.utc)
    for hours in (4, 3, 2):
        for _ in range(40):
            at = now - timedelta(hours=hours)
            table.commit([at] * 3, at=at)
        if hours == 4:
            barrier = processes().Barrier(2)
            both = [start(maintain_often, settings.home, barrier, 1) for _ in range(2)]
            for each in both:
                each.join(120)
            assert [each.exitcode for each in both] == [0, 0]
    told, stop = processes().Value("q", 0), processes().Event()
    writer = start(write_often, settings.home, told, stop)
    try:
        steps = 0
        # Killed after its first step, its second, and so on, until it comes to its end.
        while True:
            ours, theirs = processes().Pipe(duplex=False)
            killed = start(maintain_until, settings.home, steps, theirs)
            theirs.close()
            killed.join(120)
            ours.close()
            if killed.exitcode == 0:
                break
            assert killed.exitcode == -9
            steps += 1
        maintain_table(settings, TABLE, ())
        wait_for(lambda: told.value >= 50 or writer.exitcode is not None)
    finally:
        stop.set()
        writer.join(120)
    assert writer.exitcode == 0
    assert steps >= 3
    assert told.value >= 50
    assert_valid_log(settings.table_uri(TABLE))
    rows = DeltaTable(settings.table_uri(TABLE)).to_pyarrow_table()
    expected = Counter([*range(360), *range(1_000_000, 1_000_000 + told.value)])
    assert Counter(rows["payment_id"].to_pylist()) == expected
    # The order of the stream, and that its hours are one file each now.
    order = sorted(
        zip(rows["position"].to_pylist(), rows["place"].to_pylist(), rows["payment_id"].to_pylist(), strict=True)
    )
    assert [each[2] for each in order] == sorted(expected)
    closed = [hour for hour in rows["hour"].to_pylist() if hour < now.strftime("%Y-%m-%dT%H")]
    assert Counter(closed) == Counter(dict.fromkeys(set(closed), 120))
    maintain_table(settings, TABLE, ())  # the writer's hour may be over meanwhile
    assert maintain_table(settings, TABLE, ()).merged == 0
