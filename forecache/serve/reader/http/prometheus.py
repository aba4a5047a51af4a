"""The metrics of all workers, and of the processes, as a page for Prometheus."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product

from prometheus_client.process_collector import ProcessCollector

from forecache.kit.metrics.page import MetricsPage, merge_first_buckets, power_of_two_bounds
from forecache.serve.reader import worker_metrics as cell
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.worker_metrics import HTTP_METHODS, HTTP_ROUTES, WorkerMetrics

_OF_PROCESSES: dict[str, Callable[[Iterable[float]], float]] = {
    "process_cpu_seconds_total": sum,
    "process_resident_memory_bytes": sum,
    "process_open_fds": sum,
    "process_max_fds": min,
    "process_start_time_seconds": min,
}
"""Metrics of Prometheus's library that are shown, and what makes one number from those of all processes."""


def process_values(workers: Iterable[int]) -> Iterator[tuple[str, float]]:
    """Each metric and its value; none if the system has no /proc. The workers are children of the main process."""
    pids = {*workers, os.getppid()}
    collector = ProcessCollector(pid=iter(pids).__next__, registry=None)  # collects those of the next one each time
    samples = [sample for _ in pids for family in collector.collect() for sample in family.samples]
    for name, combine in _OF_PROCESSES.items():
        if values := [sample.value for sample in samples if sample.name == name]:
            yield name, combine(values)


_FIRST_BUCKET = 3
"""Buckets below 8 us are shown as one."""
_BOUNDS = power_of_two_bounds(_FIRST_BUCKET, cell.BUCKETS)
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

    By pipeline, `ages` has the seconds since the served as-of date ended, and `limits` those from which answers are
    stale; `views` are feature views.
    """
    workers = WorkerMetrics.open_all(runtime)
    cells = [worker.cells for worker in workers]
    live = [worker for worker in workers if worker.is_alive]
    page = MetricsPage()
    _add_requests(page, workers)
    _add_pipelines(page, workers, live)
    page.add("forecache_reader_age_seconds", ((pipeline, round(age)) for pipeline, age in ages.items()))
    page.add("forecache_reader_age_limit_seconds", ((name, round(limit)) for name, limit in (limits or {}).items()))
    page.add("forecache_feature_freshness_seconds", ((view, round(ages[view])) for view in views))
    values: dict[str, float] = {
        "forecache_reader_token_file_errors_total": _sum(cells, cell.TOKEN_ERRORS),
        "forecache_reader_bodies_refused_total": _sum(cells, cell.BODIES_REFUSED),
        "forecache_reader_connections": _sum([each.cells for each in live], cell.CONNECTIONS),
        "forecache_reader_silent_connections_closed_total": _sum(cells, cell.CLOSED_EARLY),
        "forecache_reader_workers": len(live),
        "forecache_reader_worker_crashes_total": runtime.crashes,
        "forecache_reader_draining": int(runtime.is_draining),
        "forecache_reader_in_flight_seconds_total": _sum(cells, cell.IN_FLIGHT) / 1e9,
    }
    if runtime.start_s:
        values["forecache_reader_start_seconds"] = round(runtime.start_s, 3)
    page.add_values(values.items())
    page.add("forecache_reader_build_info", [((build["version"], build["code_version"], build["python"]), 1)])
    page.add_values(process_values([worker.pid for worker in live]))
    return page.text().encode()


def _sum(cells: Sequence[Sequence[int]], place: int) -> int:
    return sum(each[place] for each in cells)


def _add_requests(page: MetricsPage, workers: Sequence[WorkerMetrics]) -> None:
    outcomes: dict[tuple[str, int], list[int]] = {}
    by_route: dict[str, list[int]] = {}
    for worker in workers:
        for route, status, buckets, nanoseconds in worker.durations():
            for sums in (
                outcomes.setdefault((route, status), [0] * (cell.BUCKETS + 1)),
                by_route.setdefault(route, [0] * (cell.BUCKETS + 1)),
            ):
                sums[:] = map(int.__add__, sums, [*buckets, nanoseconds])
    counts = dict.fromkeys(_FROM_THE_START, 0) | {outcome: sum(sums[:-1]) for outcome, sums in outcomes.items()}
    page.add(
        "forecache_reader_requests_total", (((route, str(status)), count) for (route, status), count in counts.items())
    )
    page.add_histogram(
        "forecache_reader_request_duration_seconds",
        _BOUNDS,
        ((route, *_histogram_values(sums)) for route, sums in by_route.items()),
    )
    page.add_histogram(
        "http_server_request_duration_seconds",
        _BOUNDS,
        ((_http_labels(route, status), *_histogram_values(sums)) for (route, status), sums in outcomes.items()),
    )


def _histogram_values(sums: Sequence[int]) -> tuple[list[int], float]:
    return merge_first_buckets(_FIRST_BUCKET, sums[:-1]), sums[-1] / 1e9


def _http_labels(route: str, status: int) -> tuple[str, str, str]:
    method = "_OTHER" if status == _NOT_ALLOWED else HTTP_METHODS[route]
    return method, HTTP_ROUTES[route], str(status)


def _add_pipelines(page: MetricsPage, workers: list[WorkerMetrics], live: list[WorkerMetrics]) -> None:
    """Counters of all workers, past ones included, and gauges of live workers."""
    of_living = _pipeline_values(live)
    page.add_each(
        _pipeline_values(workers).items(),
        {
            "forecache_reader_hits_total": lambda rows: _sum(rows, cell.HITS) + _sum(rows, cell.STALE_HITS),
            "forecache_reader_stale_answers_total": lambda rows: _sum(rows, cell.STALE_HITS),
            "forecache_reader_misses_total": lambda rows: _sum(rows, cell.MISSES),
            "forecache_reader_swaps_total": lambda rows: _sum(rows, cell.SWAPS),
            "forecache_reader_swap_failures_total": lambda rows: _sum(rows, cell.SWAP_FAILURES),
        },
    )
    page.add_each(of_living.items(), {"forecache_reader_damaged": lambda rows: max(row[cell.DAMAGED] for row in rows)})
    served = {name: [row for row in rows if row[cell.LIVE]] for name, rows in of_living.items()}
    page.add_each(
        [(name, rows) for name, rows in served.items() if rows],
        {
            "forecache_reader_version": lambda rows: min(row[cell.VERSION] for row in rows),
            "forecache_reader_swap_seconds": lambda rows: max(row[cell.SWAP_US] for row in rows) / 1e6,
            "forecache_reader_mapped_bytes": lambda rows: max(row[cell.MAPPED] for row in rows),
        },
    )


def _pipeline_values(workers: list[WorkerMetrics]) -> dict[str, list[list[int]]]:
    """The pipeline cells of each worker by pipeline, in alphabetical order."""
    values: dict[str, list[list[int]]] = {}
    for worker in workers:
        for pipeline, offset in worker.pipelines():
            values.setdefault(pipeline, []).append(list(worker.cells[offset : offset + len(cell.PIPELINE_CELLS)]))
    return dict(sorted(values.items()))
