"""Which events were there before: exactly as a set says, whatever is in files, in memory or between them."""

import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from waiting import wait_for

from forecache.stream.dedup.deduplicator import Deduplicator, digests_of
from forecache.stream.dedup.id_file import IdFile, IdQuery, merge_ids, write_ids
from forecache.stream.dedup.id_folder import LIST, IdFolder
from forecache.stream.table.schema import OFFSET, PARTITION, PLACE, POSITION, RECEIVED_AT

FIRST = datetime(2026, 3, 1, tzinfo=timezone.utc)
SINCE = (FIRST.date() - datetime(1970, 1, 1).date()).days
IDS = {"payment_id": "int64"}


def received(numbers: Sequence[int], days: Sequence[int]) -> pa.Table:
    """Events, received on days counted from `FIRST`; their offset is their number."""
    at = [FIRST + timedelta(days=day) for day in days]
    return pa.table(
        {
            "payment_id": pa.array(numbers, pa.int64()),
            PARTITION: pa.repeat(0, len(numbers)),
            OFFSET: pa.array(numbers, pa.int64()),
            RECEIVED_AT: pa.array(at, pa.timestamp("us", tz="UTC")),
        }
    )


def in_table(rows: pa.Table, position: int) -> pa.Table:
    """Rows as the commit of a version leaves them."""
    places = pa.array(range(rows.num_rows), pa.int32())
    return rows.append_column(POSITION, pa.repeat(position, rows.num_rows)).append_column(PLACE, places)


@contextmanager
def opened(path: Path, *, in_memory: int = 50, day: int = 2) -> Iterator[Deduplicator]:
    """As a process that starts on a day."""
    with closing(Deduplicator(("payment_id",), 2, in_memory=in_memory)) as known:
        known.open(path, ids=IDS, since=SINCE + day - 2)
        yield known


@pytest.mark.parametrize("seed", range(6))
def test_what_is_new_is_what_a_set_says_through_commits_restarts_and_old_files(seed: int, tmp_path: Path) -> None:
    """Ids of three days, of 4,000 events; each process begins with the files of the last or of an earlier one."""
    generator = random.Random(seed)
    stream = [generator.randrange(1500) for _ in range(4000)]
    table: list[pa.Table] = []
    day, done, folder, repeats = 0, 0, tmp_path / "0", 0
    for process in range(1, 1000):
        if done == len(stream):
            break
        truth = {number: day for rows in table for number, day in numbers_and_days(rows)}
        held: list[tuple[pa.Table, int]] = []  # new events that are not committed, and where their batch ends
        at, copy = done, tmp_path / str(process)
        folder.mkdir(exist_ok=True)
        shutil.copytree(folder, copy)  # while no thread writes in it
        with opened(folder, in_memory=40, day=day) as known:
            behind = table if known.cursor is None else table[known.cursor.position + 1 :]
            known.add_table_rows(in_time(rows, day) for rows in generator.sample(behind, len(behind)))
            for _ in range(generator.randrange(5, 40)):
                part = stream[at : at + generator.choice((1, 3, 50))]
                at, day = at + len(part), day + (generator.random() < 0.05)
                expected = new_numbers(truth, part, day)
                repeats += len(part) - len(expected)
                events = received(part, [day] * len(part))
                assert known.find_new(events) == expected
                held.append((events.take(pa.array(expected, pa.int64())), at))
                if generator.random() < 0.4:
                    count = generator.randrange(1, len(held) + 1)
                    rows, done = pa.concat_tables([rows for rows, _ in held[:count]]), held[count - 1][1]
                    table.append(in_table(rows, position=len(table)))
                    known.confirm_commit(table[-1], len(table) - 1)
                    held = held[count:]
        folder = generator.choice((folder, copy))
    assert done == len(stream)
    assert day > 4
    assert repeats > 500


def new_numbers(truth: dict[int, int], numbers: Sequence[int], day: int) -> list[int]:
    """The places of those that were not received in the two days before, nor on this one; `truth` has them then."""
    places = []
    for place, number in enumerate(numbers):
        if day - truth.get(number, day - 3) > 2:
            truth[number] = day
            places.append(place)
    return places


def numbers_and_days(rows: pa.Table) -> list[tuple[int, int]]:
    days = [(moment - FIRST).days for moment in rows[RECEIVED_AT].to_pylist()]
    return list(zip(rows["payment_id"].to_pylist(), days, strict=True))


def in_time(rows: pa.Table, day: int) -> pa.Table:
    return rows.filter(pa.array([received >= day - 2 for _, received in numbers_and_days(rows)], pa.bool_()))


def test_an_event_is_a_repeat_for_so_many_days_whatever_was_received_in_between(tmp_path: Path) -> None:
    for in_memory in (1, 1000):
        with opened(tmp_path / str(in_memory), in_memory=in_memory) as known:
            assert known.find_new(received([1], [0])) == [0]
            known.confirm_commit(received([1], [0]), 0)
            assert known.find_new(received([1, 2, 2], [2, 2, 2])) == [1]
            known.confirm_commit(received([2], [2]), 1)
            assert known.find_new(received([1, 1], [2, 3])) == [1], "on the third day after, an event is new again"
            known.confirm_commit(received([1], [3]), 2)
            assert known.find_new(received([1, 2], [5, 5])) == [1]


def test_memory_holds_the_newest_ids_and_files_the_others(tmp_path: Path) -> None:
    numbers = list(range(5000))
    with opened(tmp_path, in_memory=64) as known:
        for start in range(0, 5000, 50):
            events = received(numbers[start : start + 50], [0] * 50)
            assert known.find_new(events) == list(range(50))
            known.confirm_commit(events, start)
            assert known._get_writer().wait(60)
        assert len(known._recent) + len(known._leaving) <= 2 * 128
    with opened(tmp_path) as known:
        assert known.cursor is not None
        assert known.cursor.position == 4950
        assert known.find_new(received(numbers, [0] * 5000)) == []


def test_events_that_were_not_committed_are_in_no_file(tmp_path: Path) -> None:
    with opened(tmp_path, in_memory=1) as known:
        assert known.find_new(received([1, 2, 3], [0, 0, 0])) == [0, 1, 2]
        known.confirm_commit(received([1, 2], [0, 0]), 0)
    with opened(tmp_path) as known:
        assert known.find_new(received([1, 2, 3], [0, 0, 0])) == [2]


def test_ids_stay_in_memory_while_they_cannot_be_written(tmp_path: Path) -> None:
    folder, numbers = tmp_path / "ids", list(range(100))
    with opened(folder, in_memory=10) as known:
        shutil.rmtree(folder)
        for start in range(0, 100, 10):
            events = received(numbers[start : start + 10], [0] * 10)
            assert known.find_new(events) == list(range(10))
            known.confirm_commit(events, start)
        assert "No such file" in wait_for(lambda: known.failure)
        assert known.find_new(received(numbers, [0] * 100)) == []
        folder.mkdir()
        wait_for(lambda: not known.failure)
    with opened(folder) as known:
        assert known.cursor is not None
        assert known.cursor.position == 90
        assert known.find_new(received([*numbers, 100], [0] * 101)) == [100]


@pytest.mark.parametrize("spoil", ["list", "file", "ids", "since"])
def test_files_that_do_not_hold_what_is_asked_for_count_as_none(spoil: str, tmp_path: Path) -> None:
    with opened(tmp_path, in_memory=1) as known:
        known.find_new(received([1], [0]))
        known.confirm_commit(received([1], [0]), 0)
    if spoil == "list":
        (tmp_path / LIST).write_text("{")
    elif spoil == "file":
        next(tmp_path.glob("*.ids")).write_bytes(b"")
    ids = {"payment_id": "string"} if spoil == "ids" else IDS
    folder = IdFolder(tmp_path, ids=ids, since=SINCE - (spoil == "since"))
    assert (folder.files, folder.mark) == ((), None)


def test_ids_that_share_a_half_are_told_apart(tmp_path: Path) -> None:
    """Also where the filter has to say that it may be there."""
    generator = np.random.default_rng(1)
    halves = generator.integers(0, 1 << 63, (3000, 2), dtype=np.uint64)
    halves[1000:2000, 0] = halves[5, 0]
    halves[2000:, 1] = halves[5, 1]
    others = halves.copy()
    others[:1000, 1] = halves[5, 1]
    others[1000:2000, 1] = generator.permutation(halves[:1000, 1])
    others[2000:, 0] = halves[5, 0]
    there = {row.tobytes() for row in halves}
    file = IdFile(tmp_path / "ids", 0, write_ids(tmp_path / "ids", halves.tobytes()))
    assert file.contains(IdQuery.from_digests(halves.tobytes())).all()
    found = file.contains(IdQuery.from_digests(others.tobytes())).tolist()
    assert found == [row.tobytes() in there for row in others]


def test_merged_files_hold_what_each_had(tmp_path: Path) -> None:
    generator, files, lots = np.random.default_rng(2), [], []
    for number, count in enumerate((1, 70_000, 3, 150_000, 0)):
        lots.append(generator.bytes(16 * count))
        path = tmp_path / str(number)
        files.append(IdFile(path, 0, write_ids(path, lots[-1])))
    assert len(list(merge_ids(tmp_path / "all", files))) > 1
    merged = IdFile(tmp_path / "all", 0, 220_004)
    assert (np.diff(merged.heads.astype(object)) >= 0).all()
    for lot in lots:
        assert merged.contains(IdQuery.from_digests(lot)).all()
    assert not merged.contains(IdQuery.from_digests(generator.bytes(16 * 50_000))).any()


def test_a_digest_depends_on_the_event_alone() -> None:
    at = pa.array([None, FIRST, FIRST], pa.timestamp("us", tz="UTC"))
    numbers = pa.table({"a": pa.array([1, 2, None]), "b": at, "c": pa.array([None, FIRST.date(), None])})
    for unique in (("a", "b", "c"), ("a",), ("b", "a")):
        whole = digests_of(numbers, unique)
        assert whole == [digests_of(numbers.slice(place, 1), unique)[0] for place in range(3)]
        assert len(set(whole)) == 3
    texts = pa.table({"a": pa.array(["x', 'y", "x"]), "b": pa.array(["z", "y', 'z"]), "c": pa.array([1, 1])})
    assert len(set(digests_of(texts, ("a", "b")))) == 2
    assert len(set(digests_of(texts, ("a", "b", "c")) + digests_of(texts, ("a", "b")))) == 4
