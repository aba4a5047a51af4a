"""Shards of a stream: their partitions, the processes that they fall to, and the state of the stream as a whole."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forecache.base.errors import ConflictError, DamagedError, UnavailableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.kit import lease
from forecache.kit.lease import Lease, LeaseLostError, hold_free_lease, read_leases, release_for
from forecache.kit.process.periodic import Backoff
from forecache.stream.engine import engine, sharded_engine
from forecache.stream.engine.sharded_engine import EngineProcesses, ShardedEngine, _ShardThread
from forecache.stream.state import StreamState, is_reported, merge_states, read_state, write_state
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
    assert (found.committed_version, found.committed_at, found.started_at) == (9, 99.0, 10.0), "since the first began"
    assert (found.written_at, found.alive_at) == (90.0, 95.0), "it is as old as that of the shard that is behind"
    assert (found.stopped_at, found.last_error) == (0.0, "The lake is away.")
    assert found.cpu_s == 5.5, "a process that runs two shards counts once"
    assert merge_states([one, three]).stopped_at == 100.0
    behind = merge_states([one, replace(two, lag_events=4)])
    assert behind.committed_at == 80.0, "a shard that waits is not hidden by one that goes on"


def test_a_shard_that_could_not_open_the_table_does_not_say_that_the_stream_has_no_lag(settings: Settings) -> None:
    running: Any = ShardedEngine(settings, SimpleNamespace(name="cards", shards=2))  # type: ignore[arg-type]
    names = [shard.name_of("cards") for shard in running._shards]
    write_state(settings.home_path, names[0], StreamState(written_at=100.0, end_offsets={"0": 5}, committed_version=3))
    write_state(settings.home_path, names[1], StreamState(written_at=100.0, last_error="The lake is away."))
    running._put_figures()
    assert read_state(settings, "cards") is None
    ends = {"1": 7}
    well = StreamState(written_at=90.0, end_offsets=ends, lag_events=7, committed_version=3)
    write_state(settings.home_path, names[1], well)
    running._put_figures()
    found = read_state(settings, "cards")
    assert found is not None
    assert (found.written_at, found.lag_events) == (90.0, 7)
    write_state(settings.home_path, names[1], StreamState(written_at=100.0, last_error="The lake is away."))
    running._put_figures()
    assert read_state(settings, "cards") == found, "it gets old"


def _run_shard(*errors: Exception, is_remote: bool = False) -> _ShardThread:
    """Run engines that raise the errors, one each, and then one that ends."""
    left = iter(errors)

    def run() -> None:
        if (error := next(left, None)) is not None:
            raise error

    engines: Any = lambda stop: SimpleNamespace(run=run)  # noqa: E731
    thread = _ShardThread(ALL_PARTITIONS, engines, is_remote=is_remote)
    thread.join()
    assert thread.failure is not None or not list(left), "it is run until one ends"
    return thread


def test_a_shard_is_tried_again_unless_messages_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded_engine, "_BACKOFF", Backoff(0.001, 0.001))
    again = [ConflictError("It is another's."), UnavailableError("No broker answers.")]
    assert _run_shard(*again).failure is None
    lost, away = DamagedError("Messages 3 to 5 expired."), OSError("Generic S3 error")
    assert _run_shard(*again, lost).failure is lost
    assert _run_shard(away).failure is away
    assert _run_shard(away, is_remote=True).failure is None


def test_a_shard_says_why_its_last_rows_are_not_committed() -> None:
    def run(stop: threading.Event, error: Exception) -> None:
        stop.wait()
        raise error

    uncommitted, elsewhere = UnavailableError("The last rows are not committed."), ConflictError("It is another's.")
    for error, left in ((uncommitted, uncommitted), (elsewhere, None)):
        engines: Any = lambda stop, error=error: SimpleNamespace(run=lambda: run(stop, error))  # noqa: E731
        thread = _ShardThread(ALL_PARTITIONS, engines)
        thread.stop.set()
        thread.join()
        assert (thread.failure, thread.left) == (None, left)


def test_a_stream_runs_while_one_of_its_shards_is_reported(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [shard.name_of("cards") for shard in (Shard(0, 2), Shard(1, 2))]
    for name in names:
        write_state(settings.home_path, name, StreamState(alive_at=100.0))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert not is_reported(settings, *names)
    at = count(101)
    alive = lambda seconds: write_state(settings.home_path, names[1], StreamState(alive_at=next(at)))  # noqa: E731
    monkeypatch.setattr("time.sleep", alive)
    assert is_reported(settings, *names)
    ended = StreamState(alive_at=999.0, stopped_at=999.0)
    monkeypatch.setattr("time.sleep", lambda seconds: write_state(settings.home_path, names[1], ended))
    assert not is_reported(settings, *names)


def test_a_free_lease_whose_put_was_not_answered_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, swap = LocalFolder(tmp_path), LocalFolder.swap

    def lose_answer(*args: Any) -> Any:
        swap(*args)
        monkeypatch.setattr(LocalFolder, "swap", swap)
        raise UnavailableError("The connection was reset.")

    monkeypatch.setattr(LocalFolder, "swap", lose_answer)
    names = (f"engine-{number}" for number in count())
    with pytest.raises(UnavailableError), hold_free_lease(folder, names, action="stream"):
        pass
    assert [(each.name, each.released) for each in read_leases(folder)] == [("engine-0", True)]


def test_a_lease_that_was_released_is_no_more_valid(tmp_path: Path) -> None:
    with hold_free_lease(LocalFolder(tmp_path), ["x"], action="stream") as held:
        held.check()
    with pytest.raises(LeaseLostError, match="was lost: it was released"):
        held.check()


def test_what_holds_all_shards_commits_nothing_once_one_of_them_is_lost(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, leases = LocalFolder(tmp_path / "lake"), list[Lease]()

    @contextmanager
    def hold_stream(settings: Settings, name: str, *, action: str) -> Iterator[Lease]:
        with hold_free_lease(folder, [name], action=action) as held:
            leases.append(held)
            yield held

    monkeypatch.setattr(engine, "hold_stream", hold_stream)
    stream: Any = SimpleNamespace(name="cards", shards=3)
    with engine.hold_shards(settings, stream, action="backfill") as first:
        leases[2]._valid_until = 0.0  # this machine slept
        with pytest.raises(LeaseLostError, match="2-of-3"):
            first.check()
        first.ensure()
        first.check()
        assert not first.is_taken_over
        release_for(next(each for each in read_leases(folder, "cards.shards") if "2-of-3" in each.name), folder)
        leases[2].renew()
        assert first.is_taken_over
        with pytest.raises(LeaseLostError, match="2-of-3"):
            first.ensure()
