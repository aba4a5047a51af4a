"""Shards of a stream: their partitions, the processes that they fall to, and the state of the stream as a whole."""

from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from forecache.base.settings import Settings, load_settings
from forecache.kit import lease
from forecache.stream.engine import sharded_engine
from forecache.stream.engine.sharded_engine import EngineProcesses
from forecache.stream.state import StreamState, merge_states
from forecache.stream.table.schema import ALL_PARTITIONS, Shard


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home")


def test_each_partition_is_in_one_shard() -> None:
    shards, offsets = [Shard(number, 3) for number in range(3)], {partition: 10 * partition for partition in range(8)}
    found = [shard.select(offsets) for shard in shards]
    assert [list(each) for each in found] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert {**found[0], **found[1], **found[2]} == offsets
    assert ALL_PARTITIONS.select(offsets) == offsets
    assert ALL_PARTITIONS.rows_filter(offsets) is None
    names = [each.name_of("cards") for each in (ALL_PARTITIONS, Shard(0, 2), Shard(0, 4))]
    assert names == ["cards", "cards.shards/0-of-2", "cards.shards/0-of-4"], "a state is of one number of shards"


def test_processes_have_the_lowest_free_numbers_and_see_each_other(settings: Settings) -> None:
    with ExitStack() as held:
        first, second, third = (held.enter_context(closing(EngineProcesses(settings, "cards"))) for _ in range(3))
        assert [each.read_numbers() for each in (first, second, third)] == [(n, [0, 1, 2]) for n in range(3)]
        assert held.enter_context(closing(EngineProcesses(settings, "other"))).read_numbers() == (0, [0])
        second.close()
        assert third.read_numbers() == (2, [0, 2])
        assert held.enter_context(closing(EngineProcesses(settings, "cards"))).read_numbers() == (1, [0, 1, 2])


def test_a_process_that_does_not_renew_its_lease_for_a_term_counts_no_more_and_comes_back_when_it_wakes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharded_engine, "TERM_S", 0.0)
    with ExitStack() as held:
        first, second = (held.enter_context(closing(EngineProcesses(settings, "cards"))) for _ in range(2))
        assert first.read_numbers() == (0, [0]), "the second one has not renewed it since it was looked at"
        monkeypatch.setattr(sharded_engine, "TERM_S", 30.0)
        second._lease.renew()  # which finds out that it is lost
        assert second.read_numbers() == (1, [0, 1])
        assert first.read_numbers() == (0, [0, 1])


def test_looks_that_are_far_apart_do_not_show_that_a_process_has_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    with ExitStack() as held:
        monkeypatch.setattr(sharded_engine.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(lease.Lease, "renew", lambda lease: None)
        first, _ = (held.enter_context(closing(EngineProcesses(settings, "cards"))) for _ in range(2))
        assert first.read_numbers() == (0, [0, 1])
        now[0] += 60.0  # as when nobody reaches the lake
        assert first.read_numbers() == (0, [0, 1])
        for _ in range(10):
            now[0] += 2.0
            assert first.read_numbers() == (0, [0, 1])
        now[0] += 6.0
        assert first.read_numbers() == (0, [0])


def test_the_state_of_a_stream_is_made_of_those_of_its_shards() -> None:
    one = StreamState(
        process="a/1", engine="arrow", started_at=10.0, written_at=100.0, alive_at=101.0, stopped_at=100.0,
        offsets={"0": 5}, end_offsets={"0": 7}, lag_events=2, rows=5, rows_per_s=1.5, bad=1, delay_p99_s=0.5,
        committed_version=7, committed_at=99.0, release=3, cpu_s=4.0,
    )  # fmt: skip
    two = StreamState(
        process="a/1", engine="arrow", started_at=20.0, written_at=90.0, alive_at=95.0,
        offsets={"1": 3}, end_offsets={"1": 3}, rows=3, rows_per_s=2.0, repeats=1, committed_version=9,
        committed_at=80.0, cpu_s=4.5, last_error="The lake is away.",
    )  # fmt: skip
    three = StreamState(process="b/1", started_at=20.0, written_at=95.0, alive_at=96.0, stopped_at=90.0, cpu_s=1.0)
    found = merge_states([one, two, three])
    assert (found.offsets, found.end_offsets) == ({"0": 5, "1": 3}, {"0": 7, "1": 3})
    assert (found.lag_events, found.rows, found.rows_per_s, found.bad, found.repeats) == (2, 8, 3.5, 1, 1)
    assert (found.delay_p50_s, found.delay_p99_s, found.release) == (None, 0.5, 3)
    assert (found.committed_version, found.committed_at, found.started_at) == (9, 99.0, 20.0)
    assert (found.written_at, found.alive_at) == (90.0, 95.0), "it is as old as that of the shard that is behind"
    assert (found.stopped_at, found.last_error) == (0.0, "The lake is away.")
    assert found.cpu_s == 5.5, "a process that runs two shards counts once"
    assert merge_states([one, three]).stopped_at == 100.0
