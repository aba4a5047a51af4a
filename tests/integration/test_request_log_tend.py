"""The log's table is put in order beside the committer: rows do not wait for a merge, and the end does not either."""

import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pytest
from log_support import logged, spool
from reader_support import today
from waiting import beside, wait_for

from forecache.lake.delta.tables import append_rows, open_table
from forecache.realtime.log.commit import keep
from forecache.realtime.log.commit.keep import Stopped, merge_small
from forecache.realtime.log.commit.run import run_committer
from forecache.realtime.log.commit.tend import tend
from forecache.realtime.log.record import schema, table_of
from forecache.settings import Settings, load_settings

YESTERDAY = today() - timedelta(days=1)
SMALL = 3


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A log of yesterday in small files."""
    settings = load_settings(home=str(tmp_path), lake=str(tmp_path / "lake"))
    for number in range(SMALL):
        row = {"request_id": f"old-{number}", "day": YESTERDAY, "items": 1}
        rows = pa.Table.from_pylist([row], schema=schema())
        append_rows(settings, table_of("search"), rows, partition_by=("day",))
    return settings


def ids(settings: Settings) -> Counter[str]:
    return Counter(row["request_id"] for row in logged(settings))


def files(settings: Settings) -> int:
    return len(open_table(settings, table_of("search")).file_uris())


def test_rows_are_committed_while_a_merge_goes_on_and_the_end_gives_it_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = Event()
    read = keep._Rows.__iter__

    def slow(rows: Any) -> Any:
        began.set()
        for some in read(rows):
            yield some
            rows.stop.wait(60)

    monkeypatch.setattr(keep._Rows, "__iter__", slow)
    spool(settings, [["new-0"]], arrived_us=time.time_ns() // 1000).close()
    with beside(lambda stop: run_committer(settings, stop=stop)):
        assert began.wait(30)
        wait_for(lambda: ids(settings)["new-0"])
        spool(settings, [["new-1"]], arrived_us=time.time_ns() // 1000).close()
        wait_for(lambda: ids(settings)["new-1"])
        assert files(settings) == SMALL + 2, "the merge has not ended"
        ending = time.monotonic()
    assert time.monotonic() - ending < 30, "the end waits for no merge"
    assert ids(settings) == Counter([*(f"old-{number}" for number in range(SMALL)), "new-0", "new-1"])


def test_a_merge_that_is_stopped_leaves_the_table_and_the_next_one_merges(settings: Settings) -> None:
    stop, before = Event(), ids(settings)
    stop.set()
    with pytest.raises(Stopped):
        merge_small(settings, "search", today=today(), stop=stop)
    tend(settings, ["search"], stop=stop)
    assert (files(settings), ids(settings)) == (SMALL, before)
    tend(settings, ["search"], stop=Event())
    assert (files(settings), ids(settings)) == (1, before)
