"""The metrics of all workers as a page for Prometheus."""

from collections.abc import Callable, Iterable, Sequence

from forecache.reader.http.problems import STATUSES
from forecache.reader.processes.metrics import (
    BODIES_REFUSED,
    BUCKETS,
    CLOSED_EARLY,
    CONNECTIONS,
    DAMAGED,
    HITS,
    LATENCY,
    LIVE,
    MAPPED,
    MISSES,
    PIPELINE_CELLS,
    REQUESTS,
    ROUTES,
    SECONDS,
    STALE_HITS,
    STATUS,
    SWAP_FAILURES,
    SWAP_US,
    SWAPS,
    TOKEN_ERRORS,
    VERSION,
    WorkerMetrics,
)
from forecache.reader.processes.process_metrics import process_values
from forecache.reader.processes.shared_memory import Runtime

_FIRST_BUCKET = 3


def render(runtime: Runtime, ages: dict[str, float], *, build: dict[str, str]) -> bytes:
    """All workers' metrics in Prometheus' text format, version 0.0.4.

    Args:
        ages: Seconds since the end of the served as-of date by pipeline, in the worker that answers.
        build: Labels of the build: versions of the package, the code and Python.
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
        ("token_file_errors_total", "counter", "Reloads of the token file that failed.", _sum(cells, TOKEN_ERRORS)),
        ("bodies_refused_total", "counter", "Bodies refused because those in progress took all the memory for bodies.",
         _sum(cells, BODIES_REFUSED)),
        ("connections", "gauge", "Open connections, counted each second.",
         _sum([each.cells for each in live], CONNECTIONS)),
        ("silent_connections_closed_total", "counter", "Connections closed for being silent.",
         _sum(cells, CLOSED_EARLY)),
        ("workers", "gauge", "Workers that are alive.", len(live)),
        ("worker_crashes_total", "counter", "Workers that ended unexpectedly.", runtime.crashes),
        ("draining", "gauge", "1 once the reader got a signal to stop.", int(runtime.draining)),
    ):  # fmt: skip
        page.family(f"forecache_reader_{name}", kind, help_, [({}, value)])
    page.family("forecache_reader_build_info", "gauge", "What is running; the value is 1.", [(build, 1)])
    for name, kind, help_, shown in process_values([worker.pid for worker in live]):
        page.family(name, kind, help_, [({}, shown)])
    return page.text()


Rows = list[list[int]]


class _Page:
    """Builds the text, one metric family at a time."""

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
        (route, code): _sum(cells, REQUESTS + number * len(STATUSES) + STATUS[code])
        for number, route in enumerate(ROUTES)
        for code in STATUSES
    }
    page.family(
        "forecache_reader_requests_total", "counter", "Answered requests.",
        (({"route": route, "status": str(code)}, count) for (route, code), count in counts.items() if count),
    )  # fmt: skip
    name = "forecache_reader_request_duration_seconds"
    page.head(name, "histogram", "Time from the start of a request's handler until the server gets the answer.")
    for number, route in enumerate(ROUTES):
        buckets = [_sum(cells, LATENCY + number * BUCKETS + bucket) for bucket in range(BUCKETS)]
        if not any(buckets):
            continue
        below = sum(buckets[:_FIRST_BUCKET])
        for bucket in range(_FIRST_BUCKET, BUCKETS - 1):
            below += buckets[bucket]
            page.sample(f"{name}_bucket", {"route": route, "le": f"{2**bucket / 1e6:.6f}"}, below)
        page.sample(f"{name}_bucket", {"route": route, "le": "+Inf"}, sum(buckets))
        page.sample(f"{name}_sum", {"route": route}, f"{_sum(cells, SECONDS + number) / 1e9:.9f}")
        page.sample(f"{name}_count", {"route": route}, sum(buckets))


def _pipelines(page: _Page, workers: list[WorkerMetrics], live: list[WorkerMetrics]) -> None:
    """Counters of all workers, past ones included, and gauges of live workers."""
    totals = _pipeline_values(workers)
    for metric, help_, count in (
        ("hits_total", "Keys found.", lambda row: row[HITS] + row[STALE_HITS]),
        ("stale_answers_total", "Keys found whose answer was stale.", lambda row: row[STALE_HITS]),
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
