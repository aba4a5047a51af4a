"""The log's table is put in order beside the committer: rows do not wait for a merge, and the end does not either."""

import os
import time
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pytest
from log_support import logged, spool
from maintenance_lake import age
from reader_support import today
from waiting import beside, wait_for

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import lake_step
from forecache.kit.delta import merge_files
from forecache.kit.delta.log import active_files
from forecache.kit.delta.merge_files import MergeStopError
from forecache.kit.delta.tables import append_rows, open_table
from forecache.plugins.maintenance.table import data_files
from forecache.realtime.log import commit_loop as log_retention
from forecache.realtime.log.commit_loop import (
    maintain_logs,
    merge_small,
    remove_merged,
    run_committer,
)
from forecache.realtime.log.record import schema, table_of

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
    began, stops = Event(), list[Event]()
    read, merge = merge_files.read_file_rows, merge_files.merge_small_files

    def read_slowly(*args: Any, **options: Any) -> Any:
        began.set()
        for some in read(*args, **options):
            yield some
            stops[-1].wait(60)

    def note_stop(*args: Any, stop: Event) -> int:
        stops.append(stop)
        return merge(*args, stop=stop)

    monkeypatch.setattr(merge_files, "read_file_rows", read_slowly)
    monkeypatch.setattr(log_retention, "merge_small_files", note_stop)
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
    with pytest.raises(MergeStopError):
        merge_small(settings, "search", today=today(), stop=stop)
    maintain_logs(settings, ["search"], stop=stop)
    assert (files(settings), ids(settings)) == (SMALL, before)
    maintain_logs(settings, ["search"], stop=Event())
    assert (files(settings), ids(settings)) == (1, before)


def add(settings: Settings, request_id: str, day: date, num_bytes: int = 0) -> None:
    row = {"request_id": request_id, "day": day, "items": 1, "features": os.urandom(num_bytes)}
    append_rows(settings, table_of("search"), pa.Table.from_pylist([row], schema=schema()), partition_by=("day",))


def test_a_merge_writes_its_files_once_however_often_others_commit_meanwhile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = iter(range(3))

    def commit_one(step: str) -> None:
        if step == "decided" and (number := next(more, None)) is not None:
            monkeypatch.setattr(lake_step, "on_step", lambda step: None)
            add(settings, f"new-{number}", YESTERDAY)
            monkeypatch.setattr(lake_step, "on_step", commit_one)

    monkeypatch.setattr(lake_step, "on_step", commit_one)
    assert merge_small(settings, "search", today=today()) == SMALL
    assert next(more, None) is None, "others committed at three attempts"
    assert sum(ids(settings).values()) == SMALL + 3
    assert len(data_files(settings, table_of("search"))) == SMALL + 3 + 1


def test_bytes_on_disk_stay_a_few_times_those_of_the_rows_however_often_a_day_is_merged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_retention, "DAY_POLICY", replace(log_retention.DAY_POLICY, least=5))
    merges = 0
    for number in range(40):
        add(settings, str(number), today(), 20_000)
        merges += bool(merge_small(settings, "search", today=today()))
    live = active_files(open_table(settings, table_of("search")))
    on_disk = sum(info.size for info in data_files(settings, table_of("search")))
    assert merges >= 4
    assert len(live) < 20
    assert on_disk < 4 * sum(file.size_bytes for file in live)
    assert sum(ids(settings).values()) == SMALL + 40


def test_files_that_were_merged_stay_for_a_day_and_go_then(settings: Settings) -> None:
    age(settings)
    before = ids(settings)
    maintain_logs(settings, ["search"], stop=Event())
    assert len(data_files(settings, table_of("search"))) == SMALL + 1, "they were in the table a moment ago"
    age(settings)
    assert remove_merged(settings, "search") == SMALL
    assert remove_merged(settings, "search") == 0
    assert (files(settings), ids(settings)) == (1, before)
