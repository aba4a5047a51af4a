"""Reads of a remote store: their deadline, the second read of a slow one, the pause after failures."""

import asyncio
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from forecache.plugins.redis import realtime_lookups as redis
from forecache.plugins.redis.realtime_lookups import RemoteReads, RemoteUnavailable
from forecache.realtime.metrics import PathCounters
from forecache.realtime.request.request_answer import TooLate


class Slow(RemoteReads):
    """Reads that take as long, or fail, as a function of their number says."""

    def __init__(self, takes_s: Callable[[int], float]) -> None:
        super().__init__("redis://nowhere", is_cluster=False)
        self._takes_s, self.calls = takes_s, 0

    async def _read(self, names: Sequence[bytes]) -> list[bytes | None]:
        self.calls += 1
        number, began = self.calls, time.monotonic()
        takes_s = self._takes_s(number)
        if takes_s < 0:
            raise ConnectionError("gone")
        await asyncio.sleep(takes_s)
        self._update_p95(time.monotonic() - began)
        return [b"%d" % number]


def get(reads: RemoteReads, counters: PathCounters, *, within_s: float = 60.0) -> asyncio.Future:
    return asyncio.ensure_future(reads.get([[b"name"]], time.monotonic() + within_s, counters))


def test_a_slow_read_is_sent_a_second_time_and_the_first_answer_is_taken() -> None:
    async def ask() -> None:
        reads, counters = Slow(lambda number: 60 if number == 1 else 0.001), PathCounters()
        began = time.monotonic()
        assert await get(reads, counters, within_s=30) == [b"2"]
        assert time.monotonic() - began < 10, "far less than the first would have taken"
        assert (counters.get("hedged_reads"), counters.get("hedges_won")) == (1, 1)

    asyncio.run(ask())


def test_where_all_reads_are_slow_few_are_sent_a_second_time() -> None:
    async def ask() -> None:
        reads, counters = Slow(lambda number: 0.02), PathCounters()
        for _ in range(100):
            await get(reads, counters)
        assert counters.get("hedged_reads") <= 5 + 100 * 0.1 + 1
        assert reads.calls <= 117
        assert reads.p95_s > 0.01  # it has learned what is usual

    asyncio.run(ask())


def test_a_read_that_does_not_end_is_given_up_before_its_deadline_and_counts_as_late() -> None:
    async def ask() -> None:
        behind_s = []
        for _ in range(5):
            reads, counters = Slow(lambda number: 60.0), PathCounters()
            until = time.monotonic() + 0.05
            with pytest.raises(TooLate):
                await reads.get([[b"name"]], until, counters)
            behind_s.append(time.monotonic() - until)
            assert counters.get("late_reads") == 1
        assert min(behind_s) < 0.02  # a busy machine may keep some of them longer
        while reads._reading:  # what nobody waits for ends by itself, long before the minute that it would take
            assert time.monotonic() < until + 30
            await asyncio.sleep(0.01)

    asyncio.run(ask())


def test_after_failures_in_a_row_the_server_is_asked_now_and_then_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=time.monotonic())
    monkeypatch.setattr(redis, "time", SimpleNamespace(monotonic=lambda: clock.now))

    async def ask() -> None:
        reads, counters = Slow(lambda number: -1.0 if number <= 5 else 0.001), PathCounters()
        for _ in range(5):
            with pytest.raises(RemoteUnavailable, match="gone"):
                await get(reads, counters)
        with pytest.raises(RemoteUnavailable, match="a moment ago"):
            await get(reads, counters)
        assert reads.calls == 5
        clock.now += 0.3
        assert await get(reads, counters) == [b"6"]
        assert await get(reads, counters) in ([b"7"], [b"8"])  # on a busy machine a second read may be sooner

    asyncio.run(ask())
