"""Scores of requests that come again: what their key is made of, how much is kept, one call for equal requests."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forecache.plugins.score_cache.cached_path import CachedPath, score_cache_key
from forecache.realtime.metrics import PathCounters
from forecache.realtime.request.request_answer import (
    LookupResult,
    ModelCallError,
    NoScores,
    ParsedRequest,
    RefusedCallError,
    StageTimes,
    TooLate,
)


def asked(products: tuple[str, ...] = ("a", "b"), household: int = 1, price: float = 1.0) -> ParsedRequest:
    columns = {
        "household": np.array([household]),
        "product": np.array(products, object),
        "price": np.full(len(products), price),
    }
    return ParsedRequest(len(products), columns, products, b"", "some id")


def found(rows: int = 2, *, version: int = 1, segments: tuple[str, ...] = ("s1",), known: bool = True) -> LookupResult:
    manifest = SimpleNamespace(version=version, segments=[SimpleNamespace(id=each) for each in segments])
    looked_up = LookupResult({"view": np.zeros((rows, 3), np.float32)}, {"view": np.full(rows, known)})
    looked_up.versions["view"] = SimpleNamespace(manifest=manifest)
    return looked_up


class Counting:
    """A path that counts how often it is asked, and answers when it is let."""

    def __init__(self, *, in_loop: bool = False) -> None:
        self.in_loop, self.times, self.calls = in_loop, StageTimes(transform=5, model=7), 0
        self.let, self.error, self.expects_s = asyncio.Event(), None, 0.0
        self.let.set()

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        self.calls += 1
        return np.full(request.length, float(self.calls))

    async def score(self, request: ParsedRequest, found: LookupResult, until: float) -> np.ndarray:
        self.calls += 1
        try:
            await asyncio.wait_for(self.let.wait(), until - time.monotonic())
        except asyncio.TimeoutError:
            raise TooLate from None
        if self.error is not None:
            raise self.error
        return np.full(request.length, float(self.calls))

    def expected_s(self) -> float:
        return self.expects_s

    def close(self) -> None:
        self.calls = -1


def cached(inner: Counting, most_bytes: int = 1 << 20) -> tuple[CachedPath, PathCounters]:
    counters = PathCounters()
    return CachedPath(inner, most_bytes=most_bytes, counters=counters), counters


@pytest.mark.parametrize(
    ("request_", "found_"),
    [
        (asked(household=2), found()),
        (asked(("b", "a")), found()),
        (asked(("a", "b", "b")), found(3)),
        (asked(("a\0b",)), found(1)),
        (asked(("ab", "")), found()),
        (asked(price=-0.0), found()),
        (asked(price=0.0), found()),
        (asked(price=float("nan")), found()),
        (asked(), found(version=2)),
        (asked(), found(segments=("s1", "s2"))),
        (asked(), found(known=False)),
    ],
)
def test_the_key_differs_where_the_scores_could(request_: ParsedRequest, found_: LookupResult) -> None:
    assert score_cache_key(request_, found_) != score_cache_key(asked(), found())
    assert score_cache_key(request_, found_) == score_cache_key(request_, found_)


def test_the_key_tells_texts_apart_that_contain_what_joins_them() -> None:
    assert score_cache_key(asked(("a\0b",)), found(1)) != score_cache_key(asked(("a", "b")), found(1))
    assert score_cache_key(asked(("a\0", "b")), found()) != score_cache_key(asked(("a", "\0b")), found())


def test_the_request_id_is_not_part_of_the_key() -> None:
    other = asked()
    other.request_id = "another id"
    assert score_cache_key(other, found()) == score_cache_key(asked(), found())


@pytest.mark.parametrize("in_loop", [True, False])
def test_equal_requests_get_the_same_scores_and_the_model_is_asked_once(in_loop: bool) -> None:
    async def ask() -> None:
        inner = Counting(in_loop=in_loop)
        path, counters = cached(inner)

        async def score(*given: Any) -> np.ndarray:
            if in_loop:
                return path.score_now(*given, 10**9)
            return await path.score(*given, time.monotonic() + 60)

        first = await score(asked(), found())
        again = await score(asked(), found())
        other = await score(asked(household=2), found())
        assert first.tolist() == again.tolist() == [1.0, 1.0]
        assert other.tolist() == [2.0, 2.0]
        assert not again.flags.writeable
        assert (counters.get("cache_hits"), counters.get("cache_misses")) == (1, 2)
        assert counters.get("cache_bytes") == 2 * (16 + 400)

    asyncio.run(ask())


def test_times_of_a_hit_are_not_those_of_the_call_before() -> None:
    path, _ = cached(Counting(in_loop=True))
    path.score_now(asked(), found(), 10**9)
    assert (path.times.transform, path.times.model) == (5, 7)
    path.score_now(asked(), found(), 10**9)
    assert (path.times.transform, path.times.model) == (0, 0)


def test_what_was_not_asked_for_the_longest_time_goes_first() -> None:
    inner = Counting(in_loop=True)
    path, counters = cached(inner, most_bytes=3 * 416)
    for household in (1, 2, 3, 1, 4):  # 4 takes the place of 2
        path.score_now(asked(household=household), found(), 10**9)
    assert inner.calls == 4
    path.score_now(asked(household=1), found(), 10**9)
    path.score_now(asked(household=3), found(), 10**9)
    assert inner.calls == 4
    path.score_now(asked(household=2), found(), 10**9)
    assert inner.calls == 5
    assert counters.get("cache_bytes") == 3 * 416
    path.close()
    assert counters.get("cache_bytes") == 0


def test_scores_larger_than_the_cache_are_not_kept() -> None:
    inner = Counting(in_loop=True)
    path, counters = cached(inner, most_bytes=415)
    for _ in range(2):
        path.score_now(asked(), found(), 10**9)
    assert inner.calls == 2
    assert counters.get("cache_bytes") == 0


def test_equal_requests_that_come_together_ask_the_model_once() -> None:
    async def ask() -> None:
        inner = Counting()
        path, counters = cached(inner)
        inner.let.clear()
        tasks = [asyncio.ensure_future(path.score(asked(), found(), time.monotonic() + 60)) for _ in range(10)]
        await asyncio.sleep(0.01)
        inner.let.set()
        assert {tuple(scores) for scores in await asyncio.gather(*tasks)} == {(1.0, 1.0)}
        assert inner.calls == 1
        assert counters.get("cache_joined") == 9

    asyncio.run(ask())


def test_each_request_has_its_own_deadline_and_one_that_is_given_up_fails_no_other() -> None:
    async def ask() -> None:
        inner = Counting()
        path, _ = cached(inner)
        inner.let.clear()
        hasty = asyncio.ensure_future(path.score(asked(), found(), time.monotonic() + 0.2))
        await asyncio.sleep(0)
        assert inner.calls == 1
        hastier = asyncio.ensure_future(path.score(asked(), found(), time.monotonic() + 0.02))
        patient = asyncio.ensure_future(path.score(asked(), found(), time.monotonic() + 60))
        for late in (hastier, hasty):
            with pytest.raises(TooLate):
                await late
        await asyncio.sleep(0)
        inner.let.set()
        assert (await patient).tolist() == [2.0, 2.0]

    asyncio.run(ask())


def test_a_failure_is_not_kept() -> None:
    async def ask() -> None:
        inner = Counting()
        path, _ = cached(inner)
        inner.error = ModelCallError("no")
        with pytest.raises(NoScores):
            await path.score(asked(), found(), time.monotonic() + 60)
        inner.error = None
        assert (await path.score(asked(), found(), time.monotonic() + 60)).tolist() == [2.0, 2.0]

    asyncio.run(ask())


def test_a_hit_needs_no_model_and_a_miss_is_given_up_at_once_where_there_is_no_way_to_it() -> None:
    async def ask() -> None:
        inner = Counting()
        path, _ = cached(inner)
        await path.score(asked(), found(), time.monotonic() + 60)
        inner.expects_s = float("inf")  # its circuit breaker is open
        assert path.expected_s() == 0
        assert (await path.score(asked(), found(), time.monotonic() + 60)).tolist() == [1.0, 1.0]
        with pytest.raises(RefusedCallError):
            await path.score(asked(household=2), found(), time.monotonic() + 60)

    asyncio.run(ask())
