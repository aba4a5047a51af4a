"""The status of a reader as one document, for `/status.json`, the page and the command; and samples of its history."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from forecache.plugins.status.attention import Attention, reader_problems, sort_by_severity, version_problems
from forecache.plugins.status.history import STEP_S, History, ModelCounts, ReaderTraffic, quantile_us, traffic_of
from forecache.plugins.status.version_rows import version_rows
from forecache.serve.reader.http.readiness import Readiness, WorkerState
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.versions.catalog import Catalog
from forecache.serve.reader.versions.follow import RunOnLoop
from forecache.serve.reader.worker_metrics import (
    BODIES_REFUSED,
    CONNECTIONS,
    HITS,
    MISSES,
    ROUTE,
    STALE_HITS,
    TOKEN_ERRORS,
    WorkerMetrics,
)

ANSWERING = tuple(ROUTE[name] for name in ("one", "many", "feast", "realtime"))
"""The routes of requests for keys and to real-time models; people and probes use the others."""


class StatusPart:
    """A part of the status that an extension of the reader brings."""

    def model_counts(self) -> Mapping[str, ModelCounts]:
        """Counts of all workers by model name, for the history; called in the watching thread."""
        return {}

    def status(self, history: History) -> tuple[dict[str, Any], list[Attention]]:
        """Its members of the document, and its problems; called in any thread, about once a second."""
        return {}, []


class Recorder:
    """Adds a sample to the history every two seconds, in the one worker that has this task."""

    def __init__(self, runtime: ReaderSharedMemory, parts: Sequence[StatusPart]) -> None:
        self._runtime, self._parts = runtime, parts
        self._history = History(runtime.history)
        self._workers = WorkerMetrics.open_all(runtime)
        self._step = 0

    def record_sample(self, _: RunOnLoop) -> None:
        """Add a sample if one is due and this worker has the task; the watching thread calls it after each poll."""
        clock_s = time.monotonic()
        step = int(clock_s) // STEP_S
        if step == self._step or not self._runtime.try_become_recorder():
            return
        self._step = step
        models: dict[str, ModelCounts] = {}
        for part in self._parts:
            models.update(part.model_counts())
        traffic = traffic_of(self._workers, ANSWERING)
        self._history.add_sample(time.time(), traffic, count_keys(self._workers), models, clock_s=clock_s)


def count_keys(workers: Sequence[WorkerMetrics]) -> dict[str, tuple[int, int]]:
    """(keys found, keys not found) by pipeline, of all workers since the reader started."""
    found: dict[str, tuple[int, int]] = {}
    for worker in workers:
        cells = worker.cells
        for name, offset in worker.pipelines():
            hits, misses = found.get(name, (0, 0))
            hits += cells[offset + HITS] + cells[offset + STALE_HITS]
            found[name] = hits, misses + cells[offset + MISSES]
    return found


logger = logging.getLogger("forecache.reader")
WINDOW_S = 300
"""Window of latencies and shares."""
RATE_S = 10
"""Window of rates that are shown as a number."""
QUANTILES = (("p50_us", 0.5), ("p90_us", 0.9), ("p99_us", 0.99), ("p999_us", 0.999))
_NOT_MADE = Attention("warning", "A part of the status could not be made.", "The reader's log has the cause.")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Collector:
    """Collects the status of all workers in one of them; in any thread, as it changes nothing that answers use.

    Args:
        workers: Number of workers that the reader should have.
        build: Versions of the package, of Python and of the code.
    """

    def __init__(
        self,
        runtime: ReaderSharedMemory,
        catalog: Catalog,
        readiness: Readiness,
        parts: Sequence[StatusPart],
        *,
        workers: int,
        build: Mapping[str, str],
    ) -> None:
        self._runtime, self._catalog, self._readiness = runtime, catalog, readiness
        self._parts, self._wanted, self._build = parts, workers, dict(build)
        self._history = History(runtime.history)
        self._workers = WorkerMetrics.open_all(runtime)

    def document(self, now: float) -> dict[str, Any]:
        """The status at a Unix time. It has no keys of rows, no paths and no secrets."""
        not_ready = self._readiness.not_ready_reason()
        reader = self._reader(now)
        sums = count_keys(self._workers)
        rows = list(version_rows(self._catalog, self._history, sums, now, WINDOW_S, RATE_S))
        found = list(reader_problems(reader, not_ready))
        for row in rows:
            found += version_problems(row)
        members: dict[str, Any] = {}
        for part in self._parts:
            try:
                more, troubles = part.status(self._history)
            except Exception:  # a defect in one part must not hide the others
                logger.exception("A part of the status could not be made.")
                more, troubles = {}, [_NOT_MADE]
            members.update(more)
            found += troubles
        return {
            "at": datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "ready": not not_ready,
            "state": state_of(found),
            "attention": [asdict(each) for each in sort_by_severity(found)],
            "reader": reader,
            "traffic": self._traffic(),
            "versions": rows,
            "models": [],
            **members,
        }

    def _reader(self, now: float) -> dict[str, Any]:
        runtime = self._runtime
        taken = [worker for index, worker in enumerate(self._workers) if runtime.is_taken(index)]
        live = [worker for worker in taken if worker.pid and worker.is_alive]
        rows = list(_worker_rows(live))
        return {
            **self._build,
            "uptime_s": max(0, int(now - runtime.started_at)),
            "draining": runtime.is_draining,
            "workers": {
                "wanted": self._wanted,
                "alive": len(live),
                "restarts": runtime.crashes,
                "restarted_s_ago": int(now - runtime.last_crash) if runtime.last_crash else None,
                "processes": rows,
            },  # fmt: skip
            "memory_bytes": sum(row["memory_bytes"] for row in rows),
            "connections": sum(worker.cells[CONNECTIONS] for worker in live),
            "bodies_refused": sum(worker.cells[BODIES_REFUSED] for worker in self._workers),
            "token_file_errors": sum(worker.cells[TOKEN_ERRORS] for worker in self._workers),
        }

    def _traffic(self) -> dict[str, Any]:
        history = self._history
        seconds, recent = history.recent_traffic(RATE_S)
        window_s, window = history.recent_traffic(WINDOW_S)
        total = traffic_of(self._workers, ANSWERING)
        return {
            "per_s": round(recent.requests / seconds, 2) if seconds else 0.0,
            "window_s": round(window_s, 1),
            **traffic_counts(window),
            **quantiles(window.buckets),
            "buckets": window.buckets,
            "since_start": traffic_counts(total) | quantiles(total.buckets),
            "step_s": STEP_S,
            "series": history.series(),
        }


def traffic_counts(traffic: ReaderTraffic) -> dict[str, int]:
    return {
        "requests": traffic.requests,
        "client_errors": traffic.client_errors,
        "server_errors": traffic.server_errors,
    }


def quantiles(buckets: Sequence[int]) -> dict[str, float | None]:
    """Quantiles in microseconds; None without observations."""
    found = {name: quantile_us(buckets, share) for name, share in QUANTILES}
    return {name: None if value is None else round(value, 1) for name, value in found.items()}


def state_of(found: Sequence[Attention]) -> str:
    """`well`, `warning` or `critical`: the worst severity of the problems found."""
    severities = {each.severity for each in found}
    return "critical" if "critical" in severities else "warning" if severities else "well"


def _worker_rows(live: Sequence[WorkerMetrics]) -> Iterator[dict[str, Any]]:
    for worker in live:
        requests = traffic_of([worker], ANSWERING).requests
        state = WorkerState(worker.state).name.lower()
        yield {"pid": worker.pid, "state": state, "requests": requests, "memory_bytes": _resident_bytes(worker.pid)}


def _resident_bytes(pid: int) -> int:
    """Resident memory of a process, including shared pages; 0 if the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
