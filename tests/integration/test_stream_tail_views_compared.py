"""The tiles of a live view are compared with the events: what differs is found and made anew, while commits go on."""

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from live_view_sample import START, VIEW, Payment
from stream_rows import StreamTable
from tailed_view import CARDS, PAYMENTS, folded, rows, tiles, view_store, view_stream
from tailing import compare_now, environment_of, follow

from forecache.base.settings import Settings
from forecache.serve.store import Store
from forecache.serve.store.encoding.streamed_rows import StreamTable as StreamRows
from forecache.serve.store.live.layer import read_tail_state, row_of
from forecache.stream.tail.tailer import Tailer


@pytest.fixture
def store(settings: Settings) -> Store:
    return view_store(settings)


@pytest.fixture
def stream(settings: Settings) -> StreamTable:
    return view_stream(settings)


def rotten(store: Store, payments: list[Payment], key: bytes) -> None:
    """Have a key hold the tiles of some of its events."""
    other = folded([payment for payment in payments if str(payment.card).encode() == key])[key]

    def change(transaction: Any) -> None:
        record = transaction.get(key)
        transaction.put(key, record[: len(record) - len(row_of(record).value)] + other)

    with environment_of(store.layout) as environment:
        environment.write(change)


@pytest.mark.parametrize("first", [True, False])
def test_tiles_that_differ_from_the_events_are_found_and_made_anew(
    store: Store, stream: StreamTable, first: bool
) -> None:
    stream.commit(rows(PAYMENTS[:200]))
    with Tailer(stream.settings) as tailer:
        follow(tailer)
        (follower,) = tailer._followers.values()
        if not first:
            compare_now(tailer)
            assert (read_tail_state(store.layout).differed, follower.writer.verified_through) == (0, 0)
        rotten(store, PAYMENTS[:100], str(PAYMENTS[0].card).encode())
        compare_now(tailer)
        state = read_tail_state(store.layout)
        assert state.differed == 1
        said = "the tiles of 1 of 5 keys are not those of its events" if first else "its rows have the content hash"
        assert said in state.difference
        assert tiles(store) == folded(PAYMENTS[:200])
        compare_now(tailer)
        assert read_tail_state(store.layout).differed == 1
        assert follower.writer.verified_through == 0


@pytest.mark.parametrize("how", ["other tiles", "lost", "not applied"])
def test_a_commit_that_was_applied_wrongly_is_found_from_the_changes_alone(
    store: Store, stream: StreamTable, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.commit(rows(PAYMENTS[:200]))
    with Tailer(stream.settings) as tailer:
        follow(tailer)
        compare_now(tailer)
        (follower,) = tailer._followers.values()
        of_commit = follower.values.rows_of_commit

        def wrongly(*given: Any) -> Any:
            right = of_commit(*given)
            if how == "other tiles":
                return [(key, right[0][1]) for key, _ in right]
            return right[1:] if how == "lost" else []

        monkeypatch.setattr(follower.values, "rows_of_commit", wrongly)
        stream.commit(rows(PAYMENTS[200:230]))
        follow(tailer)
        monkeypatch.undo()
        stream.commit(rows(PAYMENTS[230:240]))
        follow(tailer)
        assert not follower.values.needs_full_comparison(follower.writer)
        monkeypatch.setattr(follower.log, "open_newest", cut_off(follower.log.open_newest, after=1))
        compare_now(tailer)
        assert "are not those of its events" in read_tail_state(store.layout).difference
        monkeypatch.undo()
        assert tiles(store) != folded(PAYMENTS[:240]), "the lake was away when it was to be made anew"
        assert follower.values.needs_full_comparison(follower.writer)
        compare_now(tailer)
        assert tiles(store) == folded(PAYMENTS[:240])
        compare_now(tailer)
        assert (read_tail_state(store.layout).differed, follower.writer.verified_through) == (2, 2)


def cut_off(newest: Any, *, after: int) -> Any:
    """The table's newest version, some times; then the lake is away."""
    calls = iter(range(after))

    def asked() -> Any:
        if next(calls, None) is None:
            raise OSError("The lake is away.")
        return newest()

    return asked


def test_comparisons_while_commits_go_on_read_each_row_once(
    store: Store, stream: StreamTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows come before a comparison begins, after it began and before it ends; some comparisons fail."""
    rng, at, verified = random.Random(5), 0, -1
    with Tailer(stream.settings) as tailer:
        follow(tailer)
        (follower,) = tailer._followers.values()
        read: list[int] = []

        def counting(parts: Callable[..., Iterator[pa.Table]]) -> Callable[..., Iterator[pa.Table]]:
            def counted(self: StreamRows, *given: Any, **more: Any) -> Iterator[pa.Table]:
                for rows in parts(self, *given, **more):
                    read.append(len(rows))
                    yield rows

            return counted

        monkeypatch.setattr(StreamRows, "batches", counting(StreamRows.batches))
        monkeypatch.setattr(StreamRows, "ordered_batches", counting(StreamRows.ordered_batches))

        def commit() -> None:
            nonlocal at
            size = rng.choice([1, 3, 15])
            stream.commit(rows(PAYMENTS[at : at + size]))
            at += size
            follow(tailer)

        while at < len(PAYMENTS):
            commit()
            begun_at, begun = at, follower.writer.applied
            fails = rng.random() < 0.3
            newest = cut_off(follower.log.open_newest, after=0) if fails else follower.log.open_newest
            work = follower.values.prepare_comparison(follower.writer, newest)
            for _ in range(rng.randrange(3)):
                commit()
            if fails:
                with pytest.raises(OSError, match="The lake is away"):
                    work()
                continue
            found = work()
            assert (found.version, found.difference) == (begun, "")
            follower.writer.mark_verified(begun)
            verified = begun_at
        assert sum(read) == verified > 200
        assert tiles(store) == folded(PAYMENTS)


@pytest.mark.parametrize("first", [True, False])
def test_a_night_that_comes_during_a_comparison_is_no_difference(
    store: Store, stream: StreamTable, first: bool
) -> None:
    """It takes keys away that have no event since."""
    from reader_support import write_version

    night = START + timedelta(days=1)
    old = [payment for payment in PAYMENTS if payment.day == PAYMENTS[0].day]
    new = [payment for payment in PAYMENTS if payment.card == 1 and payment.day != PAYMENTS[0].day]
    with Tailer(stream.settings) as tailer:
        if not first:
            stream.commit(rows(old[:50]))
            follow(tailer)
            compare_now(tailer)
        stream.commit(rows(old))
        stream.commit(rows(new[:20]))
        follow(tailer)
        (follower,) = tailer._followers.values()
        assert follower.writer.entries == CARDS
        work = follower.values.prepare_comparison(follower.writer, follower.log.open_newest)
        write_version(store.layout.root.parent, VIEW.name, {}, as_of=night.isoformat(), stream="cards")
        follower._kept_at = float("-inf")
        stream.commit(rows(new[20:]))
        follow(tailer)
        assert follower.writer.entries == 1
        assert work().difference == ""
        compare_now(tailer)
        assert (read_tail_state(store.layout).differed, follower.writer.verified_through) == (0, stream.version)
