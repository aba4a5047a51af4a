"""Counters of a worker, in shared memory so that any worker can answer a scrape with the sums over all of them.

Each worker counts in a file of its own, one 64-bit cell per series, so that counting is one addition without a lock
and no sum ever goes back: the file of a worker that died keeps counting for the totals.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from forecache.reader.problems import STATUSES
from forecache.reader.runtime import Runtime

ROUTES = (
    "one", "many", "pipeline", "versions", "pipelines", "feast", "healthz", "readyz", "metrics", "openapi", "other",
)  # fmt: skip
ROUTE = {name: index for index, name in enumerate(ROUTES)}
STATUS = {status: index for index, status in enumerate(STATUSES)}

BUCKETS = 24
"""Bucket i counts requests of less than 2**i microseconds; the last one all slower ones."""
_FIRST_BUCKET = 3

PIPELINE_CELLS = ("hits", "misses", "version", "swaps", "swap_failures", "swap_us", "mapped_bytes", "live")
HITS, MISSES, VERSION, SWAPS, SWAP_FAILURES, SWAP_US, MAPPED, LIVE = range(len(PIPELINE_CELLS))
MAX_PIPELINES = 512
_NAME_BYTES = 64

_HEARTBEAT = 0
_TOKEN_ERRORS = 1
_REQUESTS = 8
_LATENCY = _REQUESTS + len(ROUTES) * len(STATUSES)
_SECONDS = _LATENCY + len(ROUTES) * BUCKETS
_PIPELINES = _SECONDS + len(ROUTES)
_CELLS = _PIPELINES + MAX_PIPELINES * len(PIPELINE_CELLS)
_SIZE_BYTES = _CELLS * 8 + MAX_PIPELINES * _NAME_BYTES

_STALE_HEARTBEAT_S = 10.0


class WorkerMetrics:
    """The cells of one worker."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._map = runtime.shared(f"metrics-{name}", _SIZE_BYTES)
        self.cells = memoryview(self._map)[: _CELLS * 8].cast("Q")
        self._names = [name for name in self._read_names() if name]

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
            self._map[start : start + len(encoded)] = encoded
            self._names.append(pipeline)
        return _PIPELINES + self._names.index(pipeline) * len(PIPELINE_CELLS)

    def beat(self) -> None:
        """Say that the worker is alive; its gauges count while it does."""
        self.cells[_HEARTBEAT] = int(time.time())

    def count_token_error(self) -> None:
        self.cells[_TOKEN_ERRORS] += 1

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
            yield self._map[start : start + _NAME_BYTES].rstrip(b"\0").decode()


def render(runtime: Runtime, ages: dict[str, float]) -> bytes:
    """All workers' metrics in Prometheus' text format, version 0.0.4.

    Args:
        ages: Seconds since the end of the as-of date by pipeline, as the answering worker serves it.
    """
    workers = [
        WorkerMetrics(runtime, path.name.removeprefix("metrics-"))
        for path in sorted(Path(runtime.folder).glob("metrics-*"))
    ]
    cells = [worker.cells for worker in workers]
    live = [worker for worker in workers if worker.alive]
    lines: list[str] = []

    def family(name: str, kind: str, help_: str) -> str:
        lines.append(f"# HELP {name} {help_}")
        lines.append(f"# TYPE {name} {kind}")
        return name

    name = family("forecache_reader_requests_total", "counter", "Answered requests.")
    for route, route_name in enumerate(ROUTES):
        for status, code in enumerate(STATUSES):
            count = sum(each[_REQUESTS + route * len(STATUSES) + status] for each in cells)
            if count:
                lines.append(f'{name}{{route="{route_name}",status="{code}"}} {count}')

    name = family(
        "forecache_reader_request_seconds", "histogram",
        "Time from a request's handler starting to its answer being handed to the server.",
    )  # fmt: skip
    for route, route_name in enumerate(ROUTES):
        counts = [sum(each[_LATENCY + route * BUCKETS + bucket] for each in cells) for bucket in range(BUCKETS)]
        if not any(counts):
            continue
        below = sum(counts[:_FIRST_BUCKET])
        for bucket in range(_FIRST_BUCKET, BUCKETS - 1):
            below += counts[bucket]
            lines.append(f'{name}_bucket{{route="{route_name}",le="{2**bucket / 1e6:.6f}"}} {below}')
        lines.append(f'{name}_bucket{{route="{route_name}",le="+Inf"}} {sum(counts)}')
        seconds = sum(each[_SECONDS + route] for each in cells) / 1e9
        lines.append(f'{name}_sum{{route="{route_name}"}} {seconds:.9f}')
        lines.append(f'{name}_count{{route="{route_name}"}} {sum(counts)}')

    totals = _pipeline_values(workers)
    gauges = _pipeline_values(live)
    for cell, metric, help_ in (
        (HITS, "hits_total", "Keys found."),
        (MISSES, "misses_total", "Keys not found."),
        (SWAPS, "swaps_total", "Versions swapped in, over all workers."),
        (SWAP_FAILURES, "swap_failures_total", "Versions that could not be opened, over all workers."),
    ):
        name = family(f"forecache_reader_{metric}", "counter", help_)
        lines.extend(
            f'{name}{{pipeline="{pipeline}"}} {sum(row[cell] for row in rows)}' for pipeline, rows in totals.items()
        )
    served = {
        pipeline: [row for row in rows if row[LIVE]]
        for pipeline, rows in gauges.items()
        if any(row[LIVE] for row in rows)
    }
    for metric, help_, value in (
        ("version", "Served store version; the lowest where workers differ for a moment.", _lowest_version),
        ("swap_seconds", "Time the slowest worker took to open and warm the served version.", _slowest_swap),
        ("mapped_bytes", "Bytes of the served version's files, mapped once for all workers.", _mapped),
    ):
        name = family(f"forecache_reader_{metric}", "gauge", help_)
        lines.extend(f'{name}{{pipeline="{pipeline}"}} {value(rows)}' for pipeline, rows in served.items())
    name = family("forecache_reader_age_seconds", "gauge", "Time since the midnight (UTC) that ended the as-of date.")
    lines.extend(f'{name}{{pipeline="{pipeline}"}} {age:.0f}' for pipeline, age in ages.items())
    name = family("forecache_reader_token_file_errors_total", "counter", "Reloads of the token file that failed.")
    lines.append(f"{name} {sum(each[_TOKEN_ERRORS] for each in cells)}")
    name = family("forecache_reader_workers", "gauge", "Workers that are alive.")
    lines.append(f"{name} {len(live)}")
    name = family("forecache_reader_draining", "gauge", "1 once the reader has been told to stop.")
    lines.append(f"{name} {int(runtime.draining)}")
    return ("\n".join(lines) + "\n").encode()


def _pipeline_values(workers: list[WorkerMetrics]) -> dict[str, list[list[int]]]:
    """The pipeline cells of each worker by pipeline, in alphabetical order."""
    values: dict[str, list[list[int]]] = {}
    for worker in workers:
        for pipeline, offset in worker.pipelines():
            values.setdefault(pipeline, []).append(list(worker.cells[offset : offset + len(PIPELINE_CELLS)]))
    return dict(sorted(values.items()))


def _lowest_version(rows: list[list[int]]) -> int:
    return min(row[VERSION] for row in rows)


def _slowest_swap(rows: list[list[int]]) -> float:
    return max(row[SWAP_US] for row in rows) / 1e6


def _mapped(rows: list[list[int]]) -> int:
    return max(row[MAPPED] for row in rows)


def worker_name() -> str:
    return str(os.getpid())
