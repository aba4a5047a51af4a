"""The status of a reader as one document, for `/status.json`, the page and the command; and samples of its history."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from forecache.plugins.status.history import STEP_S, History, ModelCounts, ReaderTraffic, quantile_us, traffic_of
from forecache.serve.reader import worker_metrics as cell
from forecache.serve.reader.http.readiness import Readiness, WorkerState
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.catalog import Catalog
from forecache.serve.reader.versions.follow import RunOnLoop
from forecache.serve.reader.versions.live_answers import LiveAnswers
from forecache.serve.reader.worker_metrics import WorkerMetrics

logger = logging.getLogger("forecache.reader")
WINDOW_S, RATE_S = 300, 10
"""Windows of latencies and shares, and of rates that are shown as a number."""
ANSWERING = ("one", "many", "feast", "realtime")
"""The routes of requests for keys and to real-time models; people and probes use the others."""
QUANTILES = (("p50_us", 0.5), ("p90_us", 0.9), ("p99_us", 0.99), ("p999_us", 0.999))
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LATELY_S = 3600
"""An unexpected end of a worker is reported for so long."""


@dataclass(frozen=True)
class Attention:
    """A problem that an operator has to look at: critical if requests are not answered as they should be."""

    severity: Literal["critical", "warning"]
    what: str
    remedy: str


_NOT_MADE = Attention("warning", "A part of the status could not be made.", "The reader's log has the cause.")


def reader_problems(reader: Mapping[str, Any], not_ready: str) -> Iterator[Attention]:
    if reader["draining"]:
        what = "The reader is draining: it got a signal to stop."
        yield Attention("critical", what, "It ends by itself; start another one.")
    elif not_ready:
        yield Attention("critical", f"Not ready: {not_ready}", "A load balancer sends it nothing until it is ready.")
    workers = reader["workers"]
    ago_s = workers["restarted_s_ago"]
    if workers["alive"] < workers["wanted"]:
        what = f"{workers['alive']} of {workers['wanted']} workers are alive."
        yield Attention("warning", what, "Missing ones start by themselves; if not, the reader's log has the cause.")
    elif ago_s is not None and ago_s < LATELY_S:
        ago_min, so_far = max(1, ago_s // 60), workers["restarts"]
        what = f"A worker ended unexpectedly {ago_min} min ago and was replaced, {so_far} so far."
        yield Attention("warning", what, "The reader's log has the cause.")


def version_problems(row: Mapping[str, Any]) -> Iterator[Attention]:
    """Problems of a pipeline or view, a row of `version_rows`."""
    name, version, state = row["name"], row["version"], row["state"]
    repair = (
        f"Run `forecache store verify`, then `forecache publish {name}`; on a replica, `forecache store pull --verify`."
    )
    if state == "damaged":
        yield Attention("critical", f"Every version of {name} is damaged; requests to it fail.", repair)
    elif state == "unreadable":
        what = f"The published version of {name} cannot be read; the reader's log has the cause."
        yield Attention("critical", what, repair)
    elif state == "fallback":
        what = f"Version {row['fallback_for']} of {name} is damaged, so version {version} is served instead."
        yield Attention("warning", what, repair)
    elif state == "waiting":
        yield Attention("warning", f"{name} has no published version yet.", f"Run `forecache publish {name}`.")
    elif row["old_publish"]:
        what = f"The current version of {name} cannot be opened; version {version} stays served."
        yield Attention("warning", what, repair)
    run = f"Run `forecache run {name}`; `forecache doctor` checks what it needs."
    if row["refused"]:
        has_ended = row["source_end"] is not None and row["as_of"] >= row["source_end"]
        ended = f'Its sources ended on {row["source_end"]}: declare `on_stale="flag"` and publish it.'
        what = f"{name} is as of {row['as_of']}, older than its declaration allows, and is refused."
        yield Attention("critical", what, ended if has_ended else run)
    elif row["overdue"]:
        what = f"{name} is stale: as of {row['as_of']}, and its declaration allows {row['max_age_h']:g} h."
        yield Attention("warning", what, run)


def sort_by_severity(found: Sequence[Attention]) -> list[Attention]:
    return sorted(found, key=lambda each: each.severity != "critical")


def version_rows(
    catalog: Catalog, history: History, sums: dict[str, tuple[int, int]], now: float
) -> Iterator[dict[str, Any]]:
    """A row for each pipeline and view that this worker knows; `sums` are keys found and not found since the start."""
    served = dict(catalog.answers)  # a copy, as this may run beside the event loop
    for name in sorted({*served, *catalog.waiting, *catalog.failures, *catalog.damaged}):
        answers = served.get(name)
        rate, window = history.pipeline_counts(name, RATE_S), history.pipeline_counts(name, WINDOW_S)
        yield {
            "name": name,
            "state": _state(catalog, name, answers, now),
            **(_NOTHING if answers is None else _version_columns(answers, now)),
            "old_publish": answers is not None and name in catalog.failures,
            "keys_per_s": round(rate.per_s(sum(rate.counts)), 2),
            "found_share": window.counts[0] / sum(window.counts) if any(window.counts) else None,
            "keys_found": sums.get(name, (0, 0))[0],
            "keys_not_found": sums.get(name, (0, 0))[1],
        }


def _state(catalog: Catalog, name: str, answers: VersionAnswers | None, now: float) -> str:
    if answers is None:
        if name in catalog.damaged:
            return "damaged"
        return "unreadable" if name in catalog.failures else "waiting"
    if answers.fallback_for is not None:
        return "fallback"
    stale, refused = _staleness(answers, now)
    return "refused" if refused else "stale" if stale else "served"


def _staleness(answers: VersionAnswers, now: float) -> tuple[bool, bool]:
    """(answers are marked as stale, answers are refused as too old)."""
    manifest = answers.manifest
    past = now >= manifest.stale_after.timestamp()
    return past and manifest.policy.on_stale != "serve", past and manifest.policy.on_stale == "refuse"


def _version_columns(answers: VersionAnswers, now: float) -> dict[str, Any]:
    manifest = answers.manifest
    stale, refused = _staleness(answers, now)
    return {
        "kind": "view" if manifest.is_packed else "pipeline",
        "version": manifest.version or None,
        "live": answers.describe_layer() if isinstance(answers, LiveAnswers) else None,
        "model": manifest.made_by.get("model"),
        "keys": manifest.rows,
        "as_of": manifest.as_of,
        "published_at": manifest.published_at or None,
        "age_s": answers.age_s if not manifest.version else max(0, int(now - manifest.as_of_end.timestamp())),
        "max_age_h": manifest.policy.max_age_h,
        "on_stale": manifest.policy.on_stale,
        "stale": stale,
        "refused": refused,
        "overdue": manifest.is_overdue(datetime.fromtimestamp(now, timezone.utc)),
        "source_end": manifest.source_end,
        "fallback_for": answers.fallback_for,
        "size_bytes": manifest.size_bytes,
        "carried_forward": manifest.carried,
    }


_NOTHING: dict[str, Any] = dict.fromkeys(
    ("kind", "version", "model", "keys", "as_of", "published_at", "age_s", "max_age_h", "on_stale", "fallback_for",
     "size_bytes", "carried_forward", "live", "source_end")
) | {"stale": False, "refused": False, "overdue": False}  # fmt: skip


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
        models = {name: counts for part in self._parts for name, counts in part.model_counts().items()}
        traffic = traffic_of(self._workers, ANSWERING)
        self._history.add_sample(time.time(), traffic, count_keys(self._workers), models, clock_s=clock_s)


def count_keys(workers: Sequence[WorkerMetrics]) -> dict[str, tuple[int, int]]:
    """(keys found, keys not found) by pipeline, of all workers since the reader started."""
    found: dict[str, tuple[int, int]] = {}
    for cells, name, offset in ((each.cells, *pipeline) for each in workers for pipeline in each.pipelines()):
        hits, misses = found.get(name, (0, 0))
        found[name] = (
            hits + cells[offset + cell.HITS] + cells[offset + cell.STALE_HITS],
            misses + cells[offset + cell.MISSES],
        )
    return found


class Collector:
    """Collects the status of all workers in one of them; in any thread, as it changes nothing that answers use."""

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
        rows = list(version_rows(self._catalog, self._history, count_keys(self._workers), now))
        found = [*reader_problems(reader, not_ready), *(each for row in rows for each in version_problems(row))]
        members: dict[str, Any] = {}
        for part in self._parts:
            try:
                more, troubles = part.status(self._history)
            except Exception:  # a defect in one part must not hide the others
                logger.exception("A part of the status could not be made.")
                more, troubles = {}, [_NOT_MADE]
            members.update(more)
            found += troubles
        found = sort_by_severity(found)
        return {
            "at": datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "ready": not not_ready,
            "state": found[0].severity if found else "well",
            "attention": [asdict(each) for each in found],
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
        rows = [_worker_row(worker) for worker in live]
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
            "connections": sum(worker.cells[cell.CONNECTIONS] for worker in live),
            "bodies_refused": sum(worker.cells[cell.BODIES_REFUSED] for worker in self._workers),
            "token_file_errors": sum(worker.cells[cell.TOKEN_ERRORS] for worker in self._workers),
        }

    def _traffic(self) -> dict[str, Any]:
        history = self._history
        seconds, recent = history.recent_traffic(RATE_S)
        window_s, window = history.recent_traffic(WINDOW_S)
        total = traffic_of(self._workers, ANSWERING)
        return {
            "per_s": round(recent.requests / seconds, 2) if seconds else 0.0,
            "window_s": round(window_s, 1),
            **_traffic_counts(window),
            **quantiles(window.buckets),
            "buckets": window.buckets,
            "since_start": _traffic_counts(total) | quantiles(total.buckets),
            "step_s": STEP_S,
            "series": history.series(),
        }


def _traffic_counts(traffic: ReaderTraffic) -> dict[str, int]:
    return {name: getattr(traffic, name) for name in ("requests", "client_errors", "server_errors")}


def quantiles(buckets: Sequence[int]) -> dict[str, float | None]:
    found = {name: quantile_us(buckets, share) for name, share in QUANTILES}
    return {name: None if value is None else round(value, 1) for name, value in found.items()}


def _worker_row(worker: WorkerMetrics) -> dict[str, Any]:
    requests, state = traffic_of([worker], ANSWERING).requests, WorkerState(worker.state).name.lower()
    return {"pid": worker.pid, "state": state, "requests": requests, "memory_bytes": _resident_bytes(worker.pid)}


def _resident_bytes(pid: int) -> int:
    """Resident memory of a process, including shared pages; 0 if the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
