"""The metrics of all workers, and of the processes, as a page for Prometheus."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product

from forecache.metrics import reader as metrics
from forecache.metrics.metric import Metric
from forecache.metrics.page import Page, from_bucket, power_of_two_bounds
from forecache.reader.processes.metrics import (
    BODIES_REFUSED,
    BUCKETS,
    CLOSED_EARLY,
    CONNECTIONS,
    DAMAGED,
    HITS,
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
from forecache.reader.processes.process_metrics import process_values
from forecache.reader.processes.routes import HTTP_METHODS, HTTP_ROUTES
from forecache.reader.processes.shared_memory import Runtime

_FIRST_BUCKET = 3
"""Buckets below 8 us are shown as one."""
_BOUNDS = power_of_two_bounds(_FIRST_BUCKET, BUCKETS)
_NOT_ALLOWED = 405
_FROM_THE_START = tuple(product(("one", "many", "feast", "realtime"), (200, 500, 503, 504)))
"""Outcomes that are shown from 0 on: Prometheus would miss the first error of a counter that appears with it."""


def render(
    runtime: Runtime,
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
    live = [worker for worker in workers if worker.alive]
    page = Page()
    _requests(page, workers)
    _pipelines(page, workers, live)
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
        (metrics.DRAINING, int(runtime.draining)),
        (metrics.IN_FLIGHT, f"{_sum(cells, IN_FLIGHT) / 1e9:.9f}"),
        *([(metrics.START, f"{runtime.start_s:.3f}")] if runtime.start_s else []),
    ):
        page.one(metric, value)
    page.add(metrics.BUILD_INFO, [(tuple(build[label] for label in metrics.BUILD_INFO.labels), 1)])
    for metric, shown in process_values([worker.pid for worker in live]):
        page.one(metric, shown)
    return page.text().encode()


Rows = list[list[int]]


def _sum(cells: Sequence[Sequence[int]], cell: int) -> int:
    return sum(each[cell] for each in cells)


def _requests(page: Page, workers: Sequence[WorkerMetrics]) -> None:
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
    page.histogram(
        metrics.REQUEST_DURATION, _BOUNDS, (((route,), *_observed(sums)) for route, sums in by_route.items())
    )
    page.histogram(
        metrics.HTTP_DURATION,
        _BOUNDS,
        ((_http_labels(route, status), *_observed(sums)) for (route, status), sums in outcomes.items()),
    )


def _observed(sums: Sequence[int]) -> tuple[list[int], str]:
    return from_bucket(_FIRST_BUCKET, sums[:-1]), f"{sums[-1] / 1e9:.9f}"


def _http_labels(route: str, status: int) -> tuple[str, str, str]:
    method = "_OTHER" if status == _NOT_ALLOWED else HTTP_METHODS[route]
    return method, HTTP_ROUTES[route], str(status)


def _pipelines(page: Page, workers: list[WorkerMetrics], live: list[WorkerMetrics]) -> None:
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
        (metrics.MAPPED, _mapped),
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


def _mapped(rows: Rows) -> int:
    return max(row[MAPPED] for row in rows)
