"""The committer: each row in the table exactly once, whenever it is killed, and whoever else commits."""

import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pytest
from log_support import commit_all, committer, killed, logged, spool, writer
from reader_support import today

from forecache.base.settings import Settings, load_settings
from forecache.kit.delta.tables import append_rows, open_table
from forecache.realtime.log import commit_segments as commit
from forecache.realtime.log.commit_loop import merge_small, remove_old
from forecache.realtime.log.commit_segments import EXPIRED_DAYS
from forecache.realtime.log.record import schema, table_of
from forecache.realtime.log.spool_files import lost_rows, read_state, segments_of, streams_of

IDS = [[f"{segment}-{row}" for row in range(20)] for segment in range(4)]
ALL = Counter(each for segment in IDS for each in segment)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=str(tmp_path), lake=str(tmp_path / "lake"))


def now_us() -> int:
    return time.time_ns() // 1000


def ids(settings: Settings) -> Counter[str]:
    return Counter(row["request_id"] for row in logged(settings))


def left(settings: Settings) -> list[Path]:
    return [each.path for stream in streams_of(settings.request_log_path / "search") for each in segments_of(stream)]


def test_rows_of_two_writers_are_committed_once_and_leave_the_spool(settings: Settings) -> None:
    arrived = now_us()
    first = spool(settings, IDS[:2], arrived_us=arrived)
    other = spool(settings, IDS[2:], arrived_us=arrived)
    other.close()
    assert commit_all(settings) == 80
    assert ids(settings) == ALL
    assert left(settings) == []
    assert streams_of(settings.request_log_path / "search") == [first.folder]
    assert commit_all(settings) == 0
    row = logged(settings, request_id="0-7")
    assert [each["request_id"] for each in row] == ["0-7"]
    assert row[0]["arrived_at"].timestamp() == pytest.approx(arrived / 1e6)
    assert (row[0]["replica"], row[0]["key"], row[0]["total_us"]) == ("here:8080#1", "1", 21)
    assert open_table(settings, table_of("search")).version() == 0
    first.close()


STEPS = ["rows written", "decided", "committed", "rows committed", "counted", "segment removed"]


@pytest.mark.faults
@pytest.mark.parametrize("step", STEPS)
def test_a_committer_that_is_killed_at_any_step_leaves_each_row_once(settings: Settings, step: str) -> None:
    spool(settings, IDS, arrived_us=now_us()).close()
    assert killed(committer(settings.home_path, lake=settings.lake_uri, kill_at=step))
    commit_all(settings)
    assert ids(settings) == ALL
    assert left(settings) == []
    state = read_state(settings.request_log_path / "search")
    assert (state.rows, state.lost_damaged) == (80, 0)


@pytest.mark.faults
@pytest.mark.parametrize("step", ["frames written", "segment closed"])
def test_rows_that_a_writer_wrote_before_it_was_killed_are_committed_once(settings: Settings, step: str) -> None:
    assert killed(writer(settings.home_path, IDS[0], arrived_us=now_us(), kill_at=step))
    assert commit_all(settings) == 20
    assert ids(settings) == Counter(IDS[0])
    assert left(settings) == streams_of(settings.request_log_path / "search") == []
    assert read_state(settings.request_log_path / "search").lost_damaged == 0


@pytest.mark.faults
def test_two_committers_at_once_commit_each_row_once(settings: Settings) -> None:
    streams = [spool(settings, [[f"{stream}-{segment}-{row}" for row in range(5)] for segment in range(6)],
                     arrived_us=now_us()) for stream in range(4)]  # fmt: skip
    both = [committer(settings.home_path, lake=settings.lake_uri) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    commit_all(settings)
    assert len(ids(settings)) == 120
    assert set(ids(settings).values()) == {1}
    assert left(settings) == []
    for stream in streams:
        stream.close()


def test_a_torn_tail_and_a_changed_byte_cost_their_rows_and_are_counted(settings: Settings) -> None:
    stream = spool(settings, IDS[:2], arrived_us=now_us())
    stream.close()
    first, second = segments_of(stream.folder)
    content = bytearray(first.path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    first.path.write_bytes(content)
    # As a writer that is killed leaves it: its rows are not in its name, and its last frame is not whole.
    second.path.write_bytes(second.path.read_bytes()[:-5])
    second.path.rename(second.path.with_name(f"{second.number:012d}-{second.first:020d}.open"))
    assert commit_all(settings) == 38
    found = ids(settings)
    assert set(found.values()) == {1}
    assert len(set(IDS[0]) - set(found)) == 1
    assert set(IDS[1]) - set(found) == {"1-19"}
    assert read_state(settings.request_log_path / "search").lost_damaged == 2


def test_while_the_lake_is_away_rows_stay_in_the_spool(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("no folder")
    stream = spool(settings, IDS[:1], arrived_us=now_us())
    with pytest.raises(NotADirectoryError):
        commit_all(settings)
    assert len(left(settings)) == 1
    (tmp_path / "lake").unlink()
    assert commit_all(settings) == 20
    assert ids(settings) == Counter(IDS[0])
    stream.close()


def test_a_file_that_the_lake_does_not_find_is_a_failure_and_no_other_committer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_day(*args: object) -> None:
        raise FileNotFoundError("no bucket")

    spool(settings, IDS[:1], arrived_us=now_us()).close()
    monkeypatch.setattr(commit, "write_day", write_day)
    with pytest.raises(FileNotFoundError, match="no bucket"):
        commit_all(settings)
    assert len(left(settings)) == 1


def test_rows_that_waited_a_month_are_given_up_and_counted(settings: Settings) -> None:
    spool(settings, IDS[:1], arrived_us=now_us() - 40 * 86_400 * 1_000_000).close()
    spool(settings, IDS[1:2], arrived_us=now_us()).close()
    assert commit_all(settings) == 20
    assert ids(settings) == Counter(IDS[1])
    assert read_state(settings.request_log_path / "search").lost_expired == 20


@pytest.fixture(params=["Pacific/Kiritimati", "Etc/GMT+12"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local time is 14 hours ahead or 12 behind: in one of both it is another day than in UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_rows_are_given_up_by_the_day_in_utc_wherever_the_committer_runs(settings: Settings) -> None:
    noon = datetime.combine(today(), datetime.min.time(), timezone.utc) + timedelta(hours=12)
    for segment, days in enumerate((EXPIRED_DAYS, EXPIRED_DAYS + 1)):
        arrived = noon - timedelta(days=days)
        spool(settings, IDS[segment : segment + 1], arrived_us=int(arrived.timestamp() * 1e6)).close()
    assert commit_all(settings) == 20
    assert ids(settings) == Counter(IDS[0])


def rows_of(day: date, names: list[str]) -> pa.Table:
    return pa.Table.from_pylist([{"request_id": name, "day": day, "items": 1} for name in names], schema=schema())


def test_small_files_are_merged_and_old_days_removed_while_rows_are_committed(settings: Settings) -> None:
    now = today()
    old, before = now - timedelta(days=31), now - timedelta(days=1)
    for day in (old, before):
        for number in range(3):
            append_rows(settings, table_of("search"), rows_of(day, [f"{day}-{number}"]), partition_by=("day",))
    spool(settings, IDS[:1], arrived_us=now_us()).close()
    commit_all(settings)
    whole = ids(settings)
    assert merge_small(settings, "search", today=now) == 6
    assert ids(settings) == whole
    assert len(open_table(settings, table_of("search")).file_uris()) == 3
    assert merge_small(settings, "search", today=now) == 0
    assert remove_old(settings, "search", before=now - timedelta(days=30)) == 3
    assert ids(settings) == Counter({name: count for name, count in whole.items() if not name.startswith(str(old))})
    assert remove_old(settings, "search", before=now - timedelta(days=30)) == 0
    assert sorted(row["request_id"] for row in logged(settings, days=[before])) == [f"{before}-{n}" for n in range(3)]


def test_a_committer_merges_nothing_that_another_one_merged(settings: Settings) -> None:
    before = today() - timedelta(days=1)
    for number in range(3):
        append_rows(settings, table_of("search"), rows_of(before, [str(number)]), partition_by=("day",))
    version = open_table(settings, table_of("search")).version()
    assert merge_small(settings, "search", today=today()) == 3
    assert merge_small(settings, "search", today=today()) == 0
    assert open_table(settings, table_of("search")).version() == version + 1


def test_losses_are_told_beside_the_spool_while_the_writer_lives_and_after_it_has_ended(settings: Settings) -> None:
    stream = spool(settings, IDS[:1], arrived_us=now_us())
    stream.write_losses({"disk": 3, "memory": 0})
    assert lost_rows(settings, "search") == {"disk": 3}
    commit_all(settings)
    assert lost_rows(settings, "search") == {"disk": 3}
    stream.write_losses({"disk": 4, "memory": 1})
    stream.close()
    for _ in range(2):
        commit_all(settings)
        assert streams_of(settings.request_log_path / "search") == []
        assert lost_rows(settings, "search") == {"disk": 4, "memory": 1}
