"""Counters of a worker, in shared memory so that any worker can answer a scrape with the sums over all of them.

Each worker counts in a slot of its own, one 64-bit cell per series, so that counting is one addition without a lock
and no sum ever goes back: the slot of a worker that died keeps counting for the totals.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from forecache.reader.http.problems import STATUSES
from forecache.reader.processes.process_metrics import process_values
from forecache.reader.processes.shared_memory import Runtime

ROUTES = (
    "one", "many", "pipeline", "versions", "pipelines", "feast", "healthz", "readyz", "metrics", "openapi", "other",
)  # fmt: skip
ROUTE = {name: index for index, name in enumerate(ROUTES)}
STATUS = {status: index for index, status in enumerate(STATUSES)}

BUCKETS = 24
"""Bucket i counts requests of less than 2**i microseconds; the last one all slower ones."""
_FIRST_BUCKET = 3

PIPELINE_CELLS = (
    "hits", "misses", "version", "swaps", "swap_failures", "swap_us", "mapped_bytes", "live", "stale_hits",
    "damaged", "verified",
)  # fmt: skip
HITS, MISSES, VERSION, SWAPS, SWAP_FAILURES, SWAP_US, MAPPED, LIVE, STALE_HITS, DAMAGED, VERIFIED = range(
    len(PIPELINE_CELLS)
)
"""A key that is found counts under `hits`, or under `stale_hits` where the answer says that it is stale."""
MAX_PIPELINES = 512
_NAME_BYTES = 64

_HEARTBEAT, _TOKEN_ERRORS, _PID, _BODIES_REFUSED, _CONNECTIONS, _CLOSED_EARLY = range(6)
_REQUESTS = 8
_LATENCY = _REQUESTS + len(ROUTES) * len(STATUSES)
_SECONDS = _LATENCY + len(ROUTES) * BUCKETS
_PIPELINES = _SECONDS + len(ROUTES)
_CELLS = _PIPELINES + MAX_PIPELINES * len(PIPELINE_CELLS)
SLOT_BYTES = _CELLS * 8 + MAX_PIPELINES * _NAME_BYTES
"""Memory that one worker counts in."""

_STALE_HEARTBEAT_S = 10.0


class WorkerMetrics:
    """The cells of one worker.

    Args:
        memory: `SLOT_BYTES`, zeroed or as another worker left it.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self.cells = memory[: _CELLS * 8].cast("Q")
        self._names = [name for name in self._read_names() if name]

    @classmethod
    def claimed(cls, runtime: Runtime) -> "WorkerMetrics":
        """Those of this process; what an earlier worker counted in them stays, what it served does not."""
        metrics = cls(runtime.claim())
        metrics.cells[_PID] = os.getpid()
        for _, offset in metrics.pipelines():
            metrics.cells[offset + LIVE] = 0
        return metrics

    def observe(self, route: int, status: int, elapsed_ns: int) -> None:
        """Count one answered request; `route` indexes ROUTES."""
        cells = self.cells
        cells[_REQUESTS + route * len(STATUSES) + STATUS[status]] += 1
        bucket = (elapsed_ns // 1000).bit_length()
        cells[_LATENCY + route * BUCKETS + (bucket if bucket < BUCKETS else BUCKETS - 1)] += 1
        cells[_SECONDS + route] += elapsed_ns

    def pipeline_offset(self, pipeline: str) -> int:
        """First of the pipeline's cells, which `PIPELINE_CELLS` names in order."""
        if pipeline not in self._names:
            assert len(self._names) < MAX_PIPELINES, "more pipelines than the metrics hold"
            start = _CELLS * 8 + len(self._names) * _NAME_BYTES
            encoded = pipeline.encode()
            self._memory[start : start + len(encoded)] = encoded
            self._names.append(pipeline)
        return _PIPELINES + self._names.index(pipeline) * len(PIPELINE_CELLS)

    def beat(self) -> None:
        """Say that the worker is alive; its gauges count while it does."""
        self.cells[_HEARTBEAT] = int(time.time())

    def count_token_error(self) -> None:
        self.cells[_TOKEN_ERRORS] += 1

    def count_refused_body(self) -> None:
        self.cells[_BODIES_REFUSED] += 1

    def count_connections(self, open_now: int, closed: int) -> None:
        """Note the worker's open connections, and add those that were closed for being silent."""
        self.cells[_CONNECTIONS] = open_now
        self.cells[_CLOSED_EARLY] += closed

    @property
    def pid(self) -> int:
        return self.cells[_PID]

    @property
    def alive(self) -> bool:
        return time.time() - self.cells[_HEARTBEAT] < _STALE_HEARTBEAT_S

    def pipelines(self) -> Iterator[tuple[str, int]]:
        """Names of the counted pipelines and the offsets of their cells."""
        for index, name in enumerate(self._read_names()):
            if not name:
                return
            yield name, _PIPELINES + index * len(PIPELINE_CELLS)

    def _read_names(self) -> Iterator[str]:
        for index in range(MAX_PIPELINES):
            start = _CELLS * 8 + index * _NAME_BYTES
            yield bytes(self._memory[start : start + _NAME_BYTES]).rstrip(b"\0").decode()


def render(runtime: Runtime, ages: dict[str, float], *, build: dict[str, str]) -> bytes:
    """All workers' metrics in Prometheus' text format, version 0.0.4.

    Args:
        ages: Seconds since the end of the as-of date by pipeline, as the answering worker serves it.
        build: Labels of the build: version of the package, of the code, of Python.
    """
    workers = [WorkerMetrics(runtime.slot(index)) for index in range(runtime.num_slots)]
    cells = [worker.cells for worker in workers]
    live = [worker for worker in workers if worker.alive]
    page = _Page()
    _requests(page, cells)
    _pipelines(page, workers, live)
    page.family(
        "forecache_reader_age_seconds", "gauge", "Time since the midnight (UTC) that ended the as-of date.",
        (({"pipeline": pipeline}, f"{age:.0f}") for pipeline, age in ages.items()),
    )  # fmt: skip
    for name, kind, help_, value in (
        ("token_file_errors_total", "counter", "Reloads of the token file that failed.", _sum(cells, _TOKEN_ERRORS)),
        ("bodies_refused_total", "counter", "Bodies refused because those under way took all the memory for them.",
         _sum(cells, _BODIES_REFUSED)),
        ("connections", "gauge", "Open connections, counted each second.",
         _sum([each.cells for each in live], _CONNECTIONS)),
        ("silent_connections_closed_total", "counter", "Connections closed for being silent.",
         _sum(cells, _CLOSED_EARLY)),
        ("workers", "gauge", "Workers that are alive.", len(live)),
        ("worker_crashes_total", "counter", "Workers that ended without having been told to.", runtime.crashes),
        ("draining", "gauge", "1 once the reader has been told to stop.", int(runtime.draining)),
    ):  # fmt: skip
        page.family(f"forecache_reader_{name}", kind, help_, [({}, value)])
    page.family("forecache_reader_build_info", "gauge", "What is running; the value is 1.", [(build, 1)])
    for name, kind, help_, shown in process_values([worker.pid for worker in live]):
        page.family(name, kind, help_, [({}, shown)])
    return page.text()


Rows = list[list[int]]


class _Page:
    """Text of metrics, put together a family at a time."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, help_: str, samples: "Samples") -> None:
        self.head(name, kind, help_)
        for labels, value in samples:
            self.sample(name, labels, value)

    def head(self, name: str, kind: str, help_: str) -> None:
        self._lines += (f"# HELP {name} {help_}", f"# TYPE {name} {kind}")

    def sample(self, name: str, labels: dict[str, str], value: object) -> None:
        listed = ",".join(f'{label}="{text}"' for label, text in labels.items())
        self._lines.append(f"{name}{{{listed}}} {value}" if listed else f"{name} {value}")

    def text(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()


Samples = Iterable[tuple[dict[str, str], object]]


def _sum(cells: Sequence[Sequence[int]], cell: int) -> int:
    return sum(each[cell] for each in cells)


def _requests(page: _Page, cells: Sequence[Sequence[int]]) -> None:
    """Counts and durations by route."""
    counts = {
        (route, code): _sum(cells, _REQUESTS + number * len(STATUSES) + STATUS[code])
        for number, route in enumerate(ROUTES)
        for code in STATUSES
    }
    page.family(
        "forecache_reader_requests_total", "counter", "Answered requests.",
        (({"route": route, "status": str(code)}, count) for (route, code), count in counts.items() if count),
    )  # fmt: skip
    name = "forecache_reader_request_duration_seconds"
    page.head(name, "histogram", "Time from a request's handler starting to its answer being handed to the server.")
    for number, route in enumerate(ROUTES):
        buckets = [_sum(cells, _LATENCY + number * BUCKETS + bucket) for bucket in range(BUCKETS)]
        if not any(buckets):
            continue
        below = sum(buckets[:_FIRST_BUCKET])
        for bucket in range(_FIRST_BUCKET, BUCKETS - 1):
            below += buckets[bucket]
            page.sample(f"{name}_bucket", {"route": route, "le": f"{2**bucket / 1e6:.6f}"}, below)
        page.sample(f"{name}_bucket", {"route": route, "le": "+Inf"}, sum(buckets))
        page.sample(f"{name}_sum", {"route": route}, f"{_sum(cells, _SECONDS + number) / 1e9:.9f}")
        page.sample(f"{name}_count", {"route": route}, sum(buckets))


def _pipelines(page: _Page, workers: list[WorkerMetrics], live: list[WorkerMetrics]) -> None:
    """Counts over all workers there have been, and gauges of those that are alive."""
    totals = _pipeline_values(workers)
    for metric, help_, count in (
        ("hits_total", "Keys found.", lambda row: row[HITS] + row[STALE_HITS]),
        ("stale_answers_total", "Keys found whose answer said that it is stale.", lambda row: row[STALE_HITS]),
        ("misses_total", "Keys not found.", lambda row: row[MISSES]),
        ("swaps_total", "Versions swapped in, over all workers.", lambda row: row[SWAPS]),
        ("swap_failures_total", "Versions that could not be opened, over all workers.", lambda row: row[SWAP_FAILURES]),
    ):
        page.family(
            f"forecache_reader_{metric}", "counter", help_,
            (({"pipeline": pipeline}, sum(map(count, rows))) for pipeline, rows in totals.items()),
        )  # fmt: skip
    of_living = _pipeline_values(live)
    page.family(
        "forecache_reader_damaged", "gauge",
        "1 while the published version is damaged: an earlier one is served, or none.",
        (({"pipeline": pipeline}, max(row[DAMAGED] for row in rows)) for pipeline, rows in of_living.items()),
    )  # fmt: skip
    served = {name: [row for row in rows if row[LIVE]] for name, rows in of_living.items()}
    gauges: tuple[tuple[str, str, Callable[[Rows], float]], ...] = (
        ("version", "Served store version; the lowest where workers differ for a moment.", _lowest_version),
        ("swap_seconds", "Time the slowest worker took to open and warm the served version.", _slowest_swap),
        ("mapped_bytes", "Bytes of the served version's files, mapped once for all workers.", _mapped),
    )
    for metric, help_, value in gauges:
        page.family(
            f"forecache_reader_{metric}", "gauge", help_,
            (({"pipeline": pipeline}, value(rows)) for pipeline, rows in served.items() if rows),
        )  # fmt: skip


def _pipeline_values(workers: list[WorkerMetrics]) -> dict[str, Rows]:
    """The pipeline cells of each worker by pipeline, in alphabetical order."""
    values: dict[str, Rows] = {}
    for worker in workers:
        for pipeline, offset in worker.pipelines():
            values.setdefault(pipeline, []).append(list(worker.cells[offset : offset + len(PIPELINE_CELLS)]))
    return dict(sorted(values.items()))


def _lowest_version(rows: Rows) -> int:
    return min(row[VERSION] for row in rows)


def _slowest_swap(rows: Rows) -> float:
    return max(row[SWAP_US] for row in rows) / 1e6


def _mapped(rows: Rows) -> int:
    return max(row[MAPPED] for row in rows)
