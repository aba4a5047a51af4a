"""Counters of a worker, in shared memory so that any worker can answer a scrape with the sums over all of them.

Each worker has a slot of its own, with one 64-bit cell per series, so that counting is one addition without a lock. No
sum ever decreases: the slot of a dead worker stays part of the totals.
"""

import os
import time
from collections.abc import Callable, Iterator
from itertools import product

from forecache.kit.http.problems import BUSY, STATUSES
from forecache.serve.reader.shared_memory import NAME_BYTES, NameTable, ReaderSharedMemory

HTTP_ROUTES = {
    "one": "/v1/{pipeline}/{key}",
    "many": "/v1/{pipeline}",
    "pipeline": "/v1/{pipeline}",
    "versions": "/versions/{pipeline}",
    "pipelines": "/v1",
    "feast": "/get-online-features",
    "healthz": "/healthz",
    "readyz": "/readyz",
    "metrics": "/metrics",
    "openapi": "/openapi.json",
    "other": "",
    "realtime": "/v1/{model}",
    "status": "/status",
    "report": "/status/{name}",
    "docs": "/docs",
    "root": "/",
}
"""Path template of each route by its name in the metrics; "" for unknown paths."""
HTTP_METHODS = {
    **dict.fromkeys(HTTP_ROUTES, "GET"),
    **dict.fromkeys(("many", "feast", "realtime"), "POST"),
    "other": "_OTHER",
}
"""The method of each route; `_OTHER` if there is none, as in OpenTelemetry's semantic conventions."""


_OF_OPERATION = frozenset({"healthz", "readyz", "metrics", "status", "report", "docs", "root"})
ROUTES = tuple(HTTP_ROUTES)
ROUTE = {name: index for index, name in enumerate(ROUTES)}
STATUS = {status: index for index, status in enumerate(STATUSES)}

BUCKETS = 24
"""Bucket i counts requests of less than 2**i microseconds; the last one all slower ones."""

PIPELINE_CELLS = range(11)
HITS, MISSES, VERSION, SWAPS, SWAP_FAILURES, SWAP_US, MAPPED, LIVE, STALE_HITS, DAMAGED, VERIFIED = PIPELINE_CELLS
"""A key that is found counts under `hits`, or under `stale_hits` if its answer is stale."""
MAX_PIPELINES = 512

_HEARTBEAT, TOKEN_ERRORS, _PID, BODIES_REFUSED, CONNECTIONS, CLOSED_EARLY, _STATE, IN_FLIGHT = range(8)
LATENCY = 8
"""First cell of the buckets of each status of each route; from `SECONDS` on follow the nanoseconds of each."""
_OUTCOMES = len(ROUTES) * len(STATUSES)
SECONDS = LATENCY + _OUTCOMES * BUCKETS
_PIPELINES = SECONDS + _OUTCOMES
_CELLS = _PIPELINES + MAX_PIPELINES * len(PIPELINE_CELLS)
EXTENSION_BYTES = 320 * 1024
"""At the end of a slot, for the counters of extensions; see `forecache.serve.reader.http.extension`."""
SLOT_BYTES = _CELLS * 8 + MAX_PIPELINES * NAME_BYTES + EXTENSION_BYTES
"""Size of one worker's slot."""

_STALE_HEARTBEAT_S = 10.0
_REFUSAL_US = 10
_ROUTE_CELLS = len(STATUSES) * BUCKETS
_ASKED = tuple(LATENCY + ROUTE[name] * _ROUTE_CELLS for name in ROUTES if name not in _OF_OPERATION)
"""First cells of the routes that clients ask for values."""


class WorkerMetrics:
    """The cells of one worker, in a slot of `SLOT_BYTES`, zeroed or as another worker left it."""

    def __init__(self, memory: memoryview) -> None:
        self.cells = memory[: _CELLS * 8].cast("Q")
        self.extension = memory[-EXTENSION_BYTES:]
        self._names = NameTable(memory[_CELLS * 8 : -EXTENSION_BYTES], MAX_PIPELINES)

    @classmethod
    def claim(cls, runtime: ReaderSharedMemory) -> "WorkerMetrics":
        """Claim a slot for this process; counters of an earlier worker stay, its gauges are reset."""
        metrics = cls(runtime.claim_slot())
        metrics.cells[_PID] = os.getpid()
        for _, offset in metrics.pipelines():
            metrics.cells[offset + LIVE] = 0
        return metrics

    @classmethod
    def open_all(cls, runtime: ReaderSharedMemory) -> "list[WorkerMetrics]":
        """The cells of all workers, those that have ended included."""
        return [cls(runtime.slot(index)) for index in range(runtime.num_slots)]

    def observe(self, route: int, status: int, elapsed_ns: int) -> None:
        """Count one answered request; `route` indexes ROUTES."""
        cells = self.cells
        outcome = route * len(STATUSES) + STATUS[status]
        bucket = (elapsed_ns // 1000).bit_length()
        cells[LATENCY + outcome * BUCKETS + (bucket if bucket < BUCKETS else BUCKETS - 1)] += 1
        cells[SECONDS + outcome] += elapsed_ns

    def count_refused(self, route: int, number: int) -> None:
        """Count requests that were refused unparsed, each of which takes some microseconds."""
        outcome = route * len(STATUSES) + STATUS[BUSY.status]
        self.cells[LATENCY + outcome * BUCKETS + _REFUSAL_US.bit_length()] += number
        self.cells[SECONDS + outcome] += number * _REFUSAL_US * 1000

    def durations(self) -> Iterator[tuple[str, int, list[int], int]]:
        """(route, status, requests in each bucket, nanoseconds of all) of every outcome that has occurred."""
        for outcome, (route, status) in enumerate(product(ROUTES, STATUSES)):
            start = LATENCY + outcome * BUCKETS
            if any(buckets := self.cells[start : start + BUCKETS].tolist()):
                yield route, status, buckets, self.cells[SECONDS + outcome]

    @property
    def num_asked(self) -> int:
        """Number of answered requests, without those of probes and scrapes."""
        spans = (self.cells[start : start + _ROUTE_CELLS].tolist() for start in _ASKED)
        return sum(map(sum, spans))

    def handling_ns(self) -> int:
        return sum(self.cells[SECONDS:_PIPELINES].tolist())

    def pipeline_offset(self, pipeline: str) -> int:
        """Index of the first of the pipeline's cells, in the order of `PIPELINE_CELLS`."""
        return _PIPELINES + self._names.assign_place(pipeline) * len(PIPELINE_CELLS)

    def record_heartbeat(self) -> None:
        """Record that the worker is alive; only gauges of live workers are reported."""
        # Seconds since the machine started, which all of its processes share: the date of the machine may be set back.
        self.cells[_HEARTBEAT] = 1 + int(time.monotonic())

    def note_state(self, state: int) -> None:
        """Publish the state of this worker to the others; see `forecache.serve.reader.http.readiness`."""
        self.cells[_STATE] = state

    @property
    def state(self) -> int:
        return self.cells[_STATE]

    def damaged_pipelines(self) -> list[str]:
        """The pipelines of which this worker has no undamaged version."""
        cells = self.cells
        return sorted(name for name, offset in self.pipelines() if cells[offset + DAMAGED] and not cells[offset + LIVE])

    def count_refused_body(self) -> None:
        self.cells[BODIES_REFUSED] += 1

    def count_swap(self, offset: int, version: int, *, seconds: float, mapped_bytes: int, fallback: bool) -> None:
        """Record the version that is served for a pipeline; a `fallback` is served instead of a damaged one."""
        cells = self.cells
        cells[offset + SWAP_US] = int(seconds * 1e6)
        cells[offset + SWAPS] += 1
        cells[offset + VERSION] = version
        cells[offset + MAPPED] = mapped_bytes
        cells[offset + LIVE] = 1
        cells[offset + DAMAGED] = int(fallback)
        cells[offset + SWAP_FAILURES] += int(fallback)

    @property
    def pid(self) -> int:
        return self.cells[_PID]

    @property
    def is_alive(self) -> bool:
        heartbeat = self.cells[_HEARTBEAT]
        return heartbeat > 0 and 1 + time.monotonic() - heartbeat < _STALE_HEARTBEAT_S

    def pipelines(self) -> Iterator[tuple[str, int]]:
        """Names of the counted pipelines and the offsets of their cells."""
        for place, name in enumerate(self._names):
            yield name, _PIPELINES + place * len(PIPELINE_CELLS)


class InFlightTime:
    """Counts the time that requests of one worker are in flight, including the wait for its event loop (`waited_ns`).

    By Little's law the growth of this time in a second is the mean number of requests in flight. A count at the moment
    of a scrape would mostly miss requests that last a fraction of a millisecond.
    """

    def __init__(self, metrics: WorkerMetrics, waited_ns: Callable[[], int]) -> None:
        self._metrics, self._waited_ns = metrics, waited_ns
        self._counted_ns = self._total_ns()

    def count_elapsed(self) -> None:
        """Add the time since the last call to the worker's counter."""
        total_ns = self._total_ns()
        self._metrics.cells[IN_FLIGHT] += total_ns - self._counted_ns
        self._counted_ns = total_ns

    def _total_ns(self) -> int:
        return self._metrics.handling_ns() + self._waited_ns()
