"""The metrics of the real-time models of all workers, for Prometheus."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from forecache.base.plugins import find_hooks
from forecache.kit.metrics.page import MetricsPage, merge_first_buckets, power_of_two_bounds
from forecache.realtime.log.spool_files import CommitterState, read_state, segments_of, streams_of
from forecache.realtime.metrics import (
    ANSWERED_BY,
    BATCHES,
    BUCKETS,
    CAUSES,
    CELL,
    REASONS,
    STAGES,
    ModelCells,
    blocks_by_model,
    serving_blocks,
    sum_cell,
)
from forecache.realtime.metrics import LOST_REASONS as LOSSES
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.worker_metrics import WorkerMetrics

_PATIENCE_S = 0.05
"""Longest wait for reading the spool, which usually takes a millisecond or two."""


def has_logged(blocks: Iterable[ModelCells]) -> bool:
    return any(any(each.log_counters.cells) for each in blocks)


def lost_by_reason(blocks: Sequence[ModelCells], state: CommitterState) -> Iterator[tuple[str, int]]:
    """Yield the rows of a model that were lost, by reason, with those that the committer could not read or use."""
    for reason in LOSSES:
        yield reason, sum_cell(blocks, f"lost_{reason}")
    yield "damaged", state.lost_damaged
    yield "expired", state.lost_expired


@dataclass(frozen=True)
class SpoolState:
    """State of a model's folder in the spool."""

    state: CommitterState
    size: int = 0  # bytes of its segments
    oldest: float = 0.0  # Unix time of its oldest segment; 0 if there is none

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - self.oldest) if self.oldest else 0.0


class SpoolWatcher:
    """Reads the spool in a thread: metrics are rendered on the event loop, which must not wait for a disk."""

    def __init__(self) -> None:
        self._known: dict[Path, SpoolState] = {}
        self._looking: threading.Thread | None = None

    def read_states(self, folders: Sequence[Path]) -> dict[Path, SpoolState]:
        """Read the states of folders; if the disk does not answer in time, return the last known states."""
        if self._looking is None or not self._looking.is_alive():
            self._looking = threading.Thread(
                target=self._read_folders, args=(folders,), name="forecache-spool", daemon=True
            )
            self._looking.start()
            self._looking.join(_PATIENCE_S)
        return {folder: self._known.get(folder) or SpoolState(CommitterState()) for folder in folders}

    def _read_folders(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            with suppress(OSError):
                self._known[folder] = read_spool_state(folder)


_disk = SpoolWatcher()


def read_spool_states(spool: Path, models: Iterable[str]) -> dict[str, SpoolState]:
    """Read the state of each model's folder in the spool; the last known one if the disk does not answer in time."""
    folders = {name: spool / name for name in models}
    states = _disk.read_states(list(folders.values()))
    return {name: states[folder] for name, folder in folders.items()}


def read_spool_state(folder: Path) -> SpoolState:
    size, oldest = 0, 0.0
    for stream in streams_of(folder):
        for segment in segments_of(stream):
            with suppress(FileNotFoundError):
                status = segment.path.stat()
                size += status.st_size
                oldest = min(oldest or status.st_mtime, status.st_mtime)
    return SpoolState(read_state(folder), size, oldest)


_FIRST_BUCKET = 6
"""Buckets below 64 us are shown as one."""
_BOUNDS = power_of_two_bounds(_FIRST_BUCKET, BUCKETS)
Blocks = Mapping[str, Sequence[ModelCells]]

_TOTALS = {
    "forecache_realtime_answers_total": "answers",
    "forecache_realtime_in_time_answers_total": "in_time",
    "forecache_realtime_late_answers_total": "late",
    "forecache_realtime_flagged_answers_total": "flagged",
    "forecache_realtime_swaps_total": "swaps",
    "forecache_realtime_swap_failures_total": "swap_failures",
    "forecache_realtime_model_processes_started_total": "started",
    "forecache_realtime_templates_started_total": "templates_started",
    "forecache_realtime_template_failures_total": "template_failures",
    "forecache_realtime_abandoned_total": "abandoned",
    "forecache_realtime_handed_on_total": "requeued",
    "forecache_realtime_breaker_opened_total": "breaker_opened",
    "forecache_realtime_breaker_refused_total": "breaker_refused",
    "forecache_realtime_cache_hits_total": "cache_hits",
    "forecache_realtime_cache_joined_total": "cache_joined",
    "forecache_realtime_cache_misses_total": "cache_misses",
    "forecache_realtime_hedged_reads_total": "hedged_reads",
    "forecache_realtime_hedges_won_total": "hedges_won",
    "forecache_realtime_late_reads_total": "late_reads",
}
"""Cell that a metric is the sum of, over all workers that the reader has had."""
_PARTS = {
    "forecache_realtime_items_total": ("answered_by", ANSWERED_BY),
    "forecache_realtime_without_model_total": ("reason", REASONS),
    "forecache_realtime_model_processes_replaced_total": ("replaced", CAUSES),
}
"""The same of metrics with a second label: the cells' names begin with the first word."""


def metrics_page(
    runtime: ReaderSharedMemory, spool: Path, references: Mapping[str, Any], *, drift_window_s: float
) -> str:
    """Render the metrics in Prometheus's text format, version 0.0.4."""
    workers = WorkerMetrics.open_all(runtime)
    all_of, alive = blocks_by_model(workers), blocks_by_model(worker for worker in workers if worker.is_alive)
    serving = {name: serving_blocks(blocks) for name, blocks in alive.items()}
    page = MetricsPage()
    page.add_each(
        alive.items(),
        {"forecache_realtime_damaged": lambda blocks: max(each.cells[CELL["damaged"]] for each in blocks)},
    )
    _add_counters(page, all_of)
    page.add_each(
        [(name, blocks) for name, blocks in serving.items() if blocks],
        {
            "forecache_realtime_release": lambda blocks: min(each.cells[CELL["release"]] for each in blocks),
            "forecache_realtime_runs_in_loop": lambda blocks: min(each.cells[CELL["in_loop"]] for each in blocks),
            "forecache_realtime_model_processes": partial(sum_cell, name="processes"),
            "forecache_realtime_breaker_open": partial(sum_cell, name="breaker_open"),
            "forecache_realtime_cache_bytes": partial(sum_cell, name="cache_bytes"),
        },
    )
    _add_log(page, all_of, serving, spool)
    for add_drift_of in find_hooks("add_live_drift"):
        add_drift_of(page, workers, references, window_s=drift_window_s)
    return page.text()


def _add_counters(page: MetricsPage, all_of: Blocks) -> None:
    page.add_each(all_of.items(), {metric: partial(sum_cell, name=cell) for metric, cell in _TOTALS.items()})
    for metric, (kind, parts) in _PARTS.items():
        page.add(
            metric,
            (((name, part), sum_cell(blocks, f"{kind}_{part}")) for name, blocks in all_of.items() for part in parts),
        )
    page.add(
        "forecache_realtime_stage_seconds_total",
        (
            ((name, stage), sum_cell(blocks, f"stage_{stage}") / 1e9)
            for name, blocks in all_of.items()
            for stage in STAGES
        ),
    )
    page.add_each(
        all_of.items(),
        {"forecache_realtime_cache_saved_seconds_total": lambda blocks: sum_cell(blocks, "cache_saved_us") / 1e6},
    )
    page.add_histogram(
        "forecache_realtime_answer_seconds",
        _BOUNDS,
        ((name, _latencies(blocks), sum_cell(blocks, "seconds") / 1e9) for name, blocks in all_of.items()),
    )
    page.add_histogram(
        "forecache_realtime_batch_requests",
        [str(bound) for bound in BATCHES],
        ((name, _batches(blocks), sum_cell(blocks, "batched_requests")) for name, blocks in all_of.items()),
    )


def _latencies(blocks: Sequence[ModelCells]) -> list[int]:
    counts = [sum(each.latency[bucket] for each in blocks) for bucket in range(BUCKETS)]
    return merge_first_buckets(_FIRST_BUCKET, counts)


def _batches(blocks: Sequence[ModelCells]) -> list[int]:
    return [sum_cell(blocks, f"batches_{bound}") for bound in (*BATCHES, "more")]


def _add_log(page: MetricsPage, all_of: Blocks, serving: Blocks, spool: Path) -> None:
    logged = {name: blocks for name, blocks in all_of.items() if has_logged(blocks)}
    states = read_spool_states(spool, logged)
    page.add_each(logged.items(), {"forecache_request_log_rows_total": lambda blocks: sum_cell(blocks, "accepted")})
    page.add(
        "forecache_request_log_rows_lost_total",
        (
            ((name, reason), lost)
            for name, blocks in logged.items()
            for reason, lost in lost_by_reason(blocks, states[name].state)
        ),
    )
    page.add(
        "forecache_request_log_memory_rows",
        ((name, sum(each.log_counters.waiting for each in serving.get(name, ()))) for name in logged),
    )
    page.add_each(
        states.items(),
        {
            "forecache_request_log_spool_bytes": lambda look: look.size,
            "forecache_request_log_spool_age_seconds": lambda look: round(look.age_s, 3),
            "forecache_request_log_commits_total": lambda look: look.state.commits,
            "forecache_request_log_rows_committed_total": lambda look: look.state.rows,
            "forecache_request_log_commit_delay_seconds": lambda look: look.state.lag_s,
            "forecache_request_log_last_commit_timestamp_seconds": lambda look: look.state.committed_at,
            "forecache_request_log_commit_failing": lambda look: int(bool(look.state.failing_since)),
        },
    )
