"""Look-ups of views some of which are served from Redis: awaited, without blocking the event loop.

A read is given up at the deadline, and sent a second time if the first is slow.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from forecache.base.errors import UnavailableError
from forecache.plugins.redis.client import is_split, join_groups
from forecache.plugins.redis.reader import RedisSource, RemoteVersion
from forecache.realtime.lookups import ViewLookups, keys_of
from forecache.realtime.metrics import PathCounters
from forecache.realtime.request.request_answer import (
    LookupResult,
    NoScores,
    ParsedRequest,
    TooLate,
)
from forecache.realtime.workers.worker_path import CircuitBreaker
from forecache.serve.store.values import matrix_of

HEDGED_SHARE = 0.1  # most second reads, as a share of all
_HEDGES_AT_FIRST = 5.0
_FIRST_P95_S, _LEAST_P95_S = 0.005, 0.0002
_STEP = 0.05
_GIVE_UP_S = 0.5
_MARGIN_S = 0.001


Names = Sequence[Sequence[bytes]]


class RemoteUnavailable(NoScores):
    """A store on another machine does not answer, or lacks the served version."""

    reason = "lookup"


class RemoteReads:
    """The connections of one event loop to one Redis or Redis Cluster."""

    def __init__(self, url: str, *, is_cluster: bool) -> None:
        self._url, self._is_cluster = url, is_cluster
        self._client: Any = None
        self._breaker = CircuitBreaker()
        self._hedges = _HEDGES_AT_FIRST
        self._reading: set[asyncio.Task[list[bytes | None]]] = set()
        self.p95_s = _FIRST_P95_S

    async def get(self, names: Names, until: float, counters: PathCounters) -> list[bytes | None]:
        """Read the values of groups of names, None for missing ones, before the time `until` of `time.monotonic()`.

        Of a cluster, the names of a group are in the same slot.

        Raises TooLate without an answer in time, and RemoteUnavailable if the server refuses, or repeatedly did not
        answer.
        """
        now = time.monotonic()
        if not self._breaker.allow_request(now):
            raise RemoteUnavailable("Redis did not answer a moment ago.")
        self._hedges = min(_HEDGES_AT_FIRST, self._hedges + HEDGED_SHARE)
        until -= _MARGIN_S
        first = self._start(names)
        running = {first}
        failure: BaseException | None = None
        while running:
            left = until - time.monotonic()
            may_hedge = len(running) == 1 and failure is None and self._hedges >= 1
            wait_s = min(left, self.p95_s) if may_hedge else left
            done, running = await asyncio.wait(running, timeout=max(0.0, wait_s), return_when=asyncio.FIRST_COMPLETED)
            for read in done:
                failure = read.exception()
                if failure is None:
                    self._breaker.record_success()
                    if read is not first:
                        counters.add("hedges_won")
                    return read.result()
            if not done:
                if not may_hedge or wait_s >= left:
                    break
                self._hedges -= 1
                counters.add("hedged_reads")
                running.add(self._start(names))
        self._breaker.record_failure(time.monotonic())
        if failure is not None:
            raise RemoteUnavailable(f"Redis does not answer: {failure}.")
        counters.add("late_reads")
        raise TooLate

    def _start(self, names: Names) -> "asyncio.Task[list[bytes | None]]":
        """Start a read. It is never cancelled, as that would cost its connection."""
        read = asyncio.ensure_future(asyncio.wait_for(self._read(names), _GIVE_UP_S))
        self._reading.add(read)
        read.add_done_callback(self._forget_read)
        return read

    def _forget_read(self, read: "asyncio.Task[list[bytes | None]]") -> None:
        self._reading.discard(read)
        if not read.cancelled():
            read.exception()  # retrieved, so that asyncio does not log it

    async def _read(self, names: Names) -> list[bytes | None]:
        client = self._client
        if client is None:
            client = self._client = self._connect()
        began = time.monotonic()
        try:
            if self._is_cluster:
                pipe = client.pipeline()
                for group in names:
                    pipe.execute_command("MGET", *group)
                results = await pipe.execute(raise_on_error=False)
                moving = [group for group, result in zip(names, results, strict=True) if is_split(result)]
                singly = {tuple(group): [await client.get(name) for name in group] for group in moving}
                return join_groups(results, names, lambda group: singly[tuple(group)])
            return list(await client.mget([name for group in names for name in group]))
        finally:
            self._update_p95(time.monotonic() - began)

    def _update_p95(self, took_s: float) -> None:
        # A quantile by stochastic approximation (Robbins and Monro 1951).
        step = _STEP * self.p95_s
        self.p95_s = max(_LEAST_P95_S, self.p95_s + (step if took_s > self.p95_s else -step * 0.05 / 0.95))

    def _connect(self) -> Any:
        from redis.asyncio import Redis, RedisCluster
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        waits: dict[str, Any] = {"socket_timeout": _GIVE_UP_S, "socket_connect_timeout": _GIVE_UP_S}
        if self._is_cluster:
            return RedisCluster.from_url(self._url, **waits)
        return Redis.from_url(self._url, retry=Retry(NoBackoff(), 0), **waits)


_reads: "WeakKeyDictionary[RedisSource, RemoteReads]" = WeakKeyDictionary()


async def read_remote(
    lookups: ViewLookups, request: ParsedRequest, until: float, counters: PathCounters
) -> LookupResult:
    """Do the look-ups of a request: all that are in Redis in one round trip (one per node of a cluster).

    `until` is a time of `time.monotonic()`. Raises NoScores if the model must not be called with the served versions or
    if the reads took too long, and Problem if the values of a key are not valid.
    """
    found, now = LookupResult(), time.time()
    asked: list[tuple[Any, Any, RemoteVersion, int]] = []
    names: list[list[bytes]] = []
    for each in lookups:
        bound = lookups.bind_version(each, now, found)
        keys = keys_of(bound.answers.manifest.key, each.contract.by, request)
        version = bound.answers.snapshot
        if isinstance(version, RemoteVersion):
            its = version.entry_names(keys)
            names += its
            asked.append((each, bound, version, sum(map(len, its))))
        else:
            lookups.read_local(each, bound, found, keys, now)
    values = await _reads_from(asked[0][2].source).get(names, until, counters) if asked else []
    start = 0
    for each, bound, version, count in asked:
        try:
            entries = version.newest_entries(values[start : start + count])
        except UnavailableError as error:
            raise RemoteUnavailable(str(error)) from None
        start += count
        lookups.add_rows(each, bound, found, *matrix_of(entries, version.manifest.width))
    return found


def _reads_from(source: RedisSource) -> RemoteReads:
    reads = _reads.get(source)
    if reads is None:
        reads = _reads[source] = RemoteReads(source.url, is_cluster=source.is_cluster)
    return reads
