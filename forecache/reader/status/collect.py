"""The status of a reader as one document, for `/status.json`, the page and the command; and samples of its history."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from forecache.reader.http.extension import Extension
from forecache.reader.http.readiness import Readiness, State
from forecache.reader.processes.metrics import BODIES_REFUSED, CONNECTIONS, TOKEN_ERRORS, WorkerMetrics
from forecache.reader.processes.shared_memory import Runtime
from forecache.reader.status.attention import Attention, in_order, of_reader, of_version
from forecache.reader.status.history import STEP_S, History, Traffic, traffic_of
from forecache.reader.status.latency import quantile_us
from forecache.reader.status.recorder import ANSWERING, keys_of
from forecache.reader.status.versions import version_rows
from forecache.reader.versions.catalog import Catalog

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
        runtime: Runtime,
        catalog: Catalog,
        readiness: Readiness,
        extensions: Sequence[Extension],
        *,
        workers: int,
        build: Mapping[str, str],
    ) -> None:
        self._runtime, self._catalog, self._readiness = runtime, catalog, readiness
        self._extensions, self._wanted, self._build = extensions, workers, dict(build)
        self._history = History(runtime.history)
        self._workers = [WorkerMetrics(runtime.slot(index)) for index in range(runtime.num_slots)]

    def document(self, now: float) -> dict[str, Any]:
        """The status at a Unix time. It has no keys of rows, no paths and no secrets."""
        not_ready = self._readiness.reason()
        reader = self._reader(now)
        sums = keys_of(self._workers)
        rows = list(version_rows(self._catalog, self._history, sums, now, WINDOW_S, RATE_S))
        found = list(of_reader(reader, not_ready))
        for row in rows:
            found += of_version(row)
        parts: dict[str, Any] = {}
        for extension in self._extensions:
            try:
                part, troubles = extension.status(self._history)
            except Exception:  # a defect in one part must not hide the others
                logger.exception("A part of the status could not be made.")
                part, troubles = {}, [_NOT_MADE]
            parts.update(part)
            found += troubles
        return {
            "at": datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "ready": not not_ready,
            "state": state_of(found),
            "attention": [asdict(each) for each in in_order(found)],
            "reader": reader,
            "traffic": self._traffic(),
            "versions": rows,
            "models": [],
            **parts,
        }

    def _reader(self, now: float) -> dict[str, Any]:
        runtime = self._runtime
        taken = [worker for index, worker in enumerate(self._workers) if runtime.is_taken(index)]
        live = [worker for worker in taken if worker.pid and worker.alive]
        rows = list(_worker_rows(live))
        return {
            **self._build,
            "uptime_s": max(0, int(now - runtime.started)),
            "draining": runtime.draining,
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
        seconds, recent = history.traffic(RATE_S)
        window_s, window = history.traffic(WINDOW_S)
        total = traffic_of(self._workers, ANSWERING)
        return {
            "per_s": round(recent.requests / seconds, 2) if seconds else 0.0,
            "window_s": round(window_s, 1),
            **counted(window),
            **quantiles(window.buckets),
            "buckets": window.buckets,
            "since_start": counted(total) | quantiles(total.buckets),
            "step_s": STEP_S,
            "series": history.series(),
        }


def counted(traffic: Traffic) -> dict[str, int]:
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
        state = State(worker.state).name.lower()
        yield {"pid": worker.pid, "state": state, "requests": requests, "memory_bytes": _resident_bytes(worker.pid)}


def _resident_bytes(pid: int) -> int:
    """Resident memory of a process, including shared pages; 0 if the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
