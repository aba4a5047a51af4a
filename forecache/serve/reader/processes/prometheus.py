"""The metrics of all workers, and of the processes, as a page for Prometheus."""

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from forecache.kit.metrics import processes
from forecache.kit.metrics import reader as metrics
from forecache.kit.metrics.metric import Metric
from forecache.kit.metrics.page import MetricsPage, merge_first_buckets, power_of_two_bounds
from forecache.serve.reader.processes.shared_memory import ReaderSharedMemory
from forecache.serve.reader.processes.worker_metrics import (
    BODIES_REFUSED,
    BUCKETS,
    CLOSED_EARLY,
    CONNECTIONS,
    DAMAGED,
    HITS,
    HTTP_METHODS,
    HTTP_ROUTES,
    IN_FLIGHT,
    LIVE,
    MAPPED,
    MISSES,
    PIPELINE_CELLS,
    STALE_HITS,
    SWAP_FAILURES,
    SWAP_US,
    SWAPS,
    TOKEN_ERRORS,
    VERSION,
    WorkerMetrics,
)

_FILES = resource.RLIMIT_NOFILE
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_USER, _SYSTEM, _STARTED, _RESIDENT = 11, 12, 19, 21  # fields of proc(5)'s stat, counted from the one after the name


def process_values(workers: Iterable[int]) -> Iterator[tuple[Metric, object]]:
    """Each metric and its value; none if the system has no /proc.

    Args:
        workers: Process ids of the workers, all children of the main process.
    """
    stats = {pid: stat for pid in {*workers, os.getppid()} if (stat := _read_stat(pid))}
    if not stats:
        return
    ticks = sum(int(stat[_USER]) + int(stat[_SYSTEM]) for stat in stats.values())
    yield processes.CPU, f"{ticks * _TICK_S:.2f}"
    yield processes.RESIDENT, sum(int(stat[_RESIDENT]) for stat in stats.values()) * os.sysconf("SC_PAGE_SIZE")
    yield processes.OPEN_FILES, sum(map(_num_open_files, stats))
    yield processes.MOST_FILES, resource.getrlimit(_FILES)[0]
    with open("/proc/uptime") as file:
        booted = time.time() - float(file.read().split()[0])
    started = min(int(stat[_STARTED]) for stat in stats.values())
    yield processes.STARTED, f"{booted + started * _TICK_S:.2f}"


def _read_stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _num_open_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


_FIRST_BUCKET = 3
"""Buckets below 8 us are shown as one."""
_BOUNDS = power_of_two_bounds(_FIRST_BUCKET, BUCKETS)
_NOT_ALLOWED = 405
_FROM_THE_START = tuple(product(("one", "many", "feast", "realtime"), (200, 500, 503, 504)))
"""Outcomes that are shown from 0 on: Prometheus would miss the first error of a counter that appears with it."""


def render(
    runtime: ReaderSharedMemory,
    ages: Mapping[str, float],
    *,
    build: Mapping[str, str],
    limits: Mapping[str, float] | None = None,
    views: Iterable[str] = (),
) -> bytes:
    """All workers' metrics in Prometheus' text format, version 0.0.4.

    Args:
        ages: Seconds since the end of the served as-of date by pipeline, in this worker.
        build: Labels of the build: versions of the package, the code and Python.
        limits: Seconds of age by pipeline beyond which its answers are stale.
        views: The pipelines that are feature views.
    """
    workers = [WorkerMetrics(runtime.slot(index)) for index in range(runtime.num_slots)]
    cells = [worker.cells for worker in workers]
    live = [worker for worker in workers if worker.is_alive]
    page = MetricsPage()
    _add_requests(page, workers)
    _add_pipelines(page, workers, live)
    page.add(metrics.AGE, (((pipeline,), f"{age:.0f}") for pipeline, age in ages.items()))
    page.add(metrics.AGE_LIMIT, (((pipeline,), f"{limit:.0f}") for pipeline, limit in (limits or {}).items()))
    page.add(metrics.FEATURE_FRESHNESS, (((view,), f"{ages[view]:.0f}") for view in views))
    for metric, value in (
        (metrics.TOKEN_FILE_ERRORS, _sum(cells, TOKEN_ERRORS)),
        (metrics.BODIES_REFUSED, _sum(cells, BODIES_REFUSED)),
        (metrics.CONNECTIONS, _sum([each.cells for each in live], CONNECTIONS)),
        (metrics.SILENT_CONNECTIONS_CLOSED, _sum(cells, CLOSED_EARLY)),
        (metrics.WORKERS, len(live)),
        (metrics.WORKER_CRASHES, runtime.crashes),
        (metrics.DRAINING, int(runtime.is_draining)),
        (metrics.IN_FLIGHT, f"{_sum(cells, IN_FLIGHT) / 1e9:.9f}"),
        *([(metrics.START, f"{runtime.start_s:.3f}")] if runtime.start_s else []),
    ):
        page.add_value(metric, value)
    page.add(metrics.BUILD_INFO, [(tuple(build[label] for label in metrics.BUILD_INFO.labels), 1)])
    for metric, shown in process_values([worker.pid for worker in live]):
        page.add_value(metric, shown)
    return page.text().encode()


Rows = list[list[int]]


def _sum(cells: Sequence[Sequence[int]], cell: int) -> int:
    return sum(each[cell] for each in cells)


def _add_requests(page: MetricsPage, workers: Sequence[WorkerMetrics]) -> None:
    """Counts and durations by route, and by method and status."""
    outcomes: dict[tuple[str, int], list[int]] = {}
    by_route: dict[str, list[int]] = {}
    for worker in workers:
        for route, status, buckets, nanoseconds in worker.durations():
            for sums in (
                outcomes.setdefault((route, status), [0] * (BUCKETS + 1)),
                by_route.setdefault(route, [0] * (BUCKETS + 1)),
            ):
                sums[:] = map(int.__add__, sums, [*buckets, nanoseconds])
    counts = dict.fromkeys(_FROM_THE_START, 0) | {outcome: sum(sums[:-1]) for outcome, sums in outcomes.items()}
    page.add(metrics.REQUESTS, (((route, str(status)), count) for (route, status), count in counts.items()))
    page.add_histogram(
        metrics.REQUEST_DURATION, _BOUNDS, (((route,), *_histogram_values(sums)) for route, sums in by_route.items())
    )
    page.add_histogram(
        metrics.HTTP_DURATION,
        _BOUNDS,
        ((_http_labels(route, status), *_histogram_values(sums)) for (route, status), sums in outcomes.items()),
    )


def _histogram_values(sums: Sequence[int]) -> tuple[list[int], str]:
    return merge_first_buckets(_FIRST_BUCKET, sums[:-1]), f"{sums[-1] / 1e9:.9f}"


def _http_labels(route: str, status: int) -> tuple[str, str, str]:
    method = "_OTHER" if status == _NOT_ALLOWED else HTTP_METHODS[route]
    return method, HTTP_ROUTES[route], str(status)


def _add_pipelines(page: MetricsPage, workers: list[WorkerMetrics], live: list[WorkerMetrics]) -> None:
    """Counters of all workers, past ones included, and gauges of live workers."""
    totals = _pipeline_values(workers)
    counters: tuple[tuple[Metric, Callable[[list[int]], int]], ...] = (
        (metrics.HITS, lambda row: row[HITS] + row[STALE_HITS]),
        (metrics.STALE_ANSWERS, lambda row: row[STALE_HITS]),
        (metrics.MISSES, lambda row: row[MISSES]),
        (metrics.SWAPS, lambda row: row[SWAPS]),
        (metrics.SWAP_FAILURES, lambda row: row[SWAP_FAILURES]),
    )
    for metric, count in counters:
        page.add(metric, (((pipeline,), sum(map(count, rows))) for pipeline, rows in totals.items()))
    of_living = _pipeline_values(live)
    page.add(
        metrics.DAMAGED, (((pipeline,), max(row[DAMAGED] for row in rows)) for pipeline, rows in of_living.items())
    )
    served = {name: [row for row in rows if row[LIVE]] for name, rows in of_living.items()}
    gauges: tuple[tuple[Metric, Callable[[Rows], float]], ...] = (
        (metrics.VERSION, _lowest_version),
        (metrics.SWAP_DURATION, _slowest_swap),
        (metrics.MAPPED, _mapped_bytes),
    )
    for metric, value in gauges:
        page.add(metric, (((pipeline,), value(rows)) for pipeline, rows in served.items() if rows))


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


def _mapped_bytes(rows: Rows) -> int:
    return max(row[MAPPED] for row in rows)
