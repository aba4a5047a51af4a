"""The metrics of the real-time models of all workers, for Prometheus."""

from collections.abc import Mapping
from pathlib import Path

from forecache.kit.metrics import realtime as metrics
from forecache.kit.metrics.page import MetricsPage, merge_first_buckets, power_of_two_bounds
from forecache.plugins.drift.live.reference import DriftReference
from forecache.realtime.http.drift_metrics import add_drift, live_drift
from forecache.realtime.http.log_metrics import add_log_metrics
from forecache.realtime.http.path_metrics import add_path_metrics
from forecache.realtime.metrics import BUCKETS, CELL, REASONS, RUNGS, STAGES, ModelCells, RealtimeMetrics
from forecache.serve.reader.processes.shared_memory import ReaderSharedMemory
from forecache.serve.reader.processes.worker_metrics import WorkerMetrics

_FIRST_BUCKET = 6
"""Buckets below 64 us are shown as one."""
_BOUNDS = power_of_two_bounds(_FIRST_BUCKET, BUCKETS)
_COUNTERS = (
    (metrics.ANSWERS, "answers"),
    (metrics.IN_TIME, "in_time"),
    (metrics.LATE, "late"),
    (metrics.FLAGGED, "flagged"),
    (metrics.SWAPS, "swaps"),
    (metrics.SWAP_FAILURES, "swap_failures"),
)
_PARTS = ((metrics.ITEMS, "rung", RUNGS), (metrics.WITHOUT_MODEL, "why", REASONS))
_GAUGES = ((metrics.RELEASE, "release"), (metrics.RUNS_IN_LOOP, "in_loop"))


def metrics_page(
    runtime: ReaderSharedMemory, spool: Path, references: Mapping[str, DriftReference], *, drift_window_s: float
) -> str:
    """Render the metrics in Prometheus's text format, version 0.0.4.

    Args:
        spool: Folder of the request log's spool.
        references: By model, the bins that its answers are counted in.
    """
    workers = [WorkerMetrics(runtime.slot(index)) for index in range(runtime.num_slots)]
    all_of = _cells_by_model(workers)
    alive = _cells_by_model([worker for worker in workers if worker.is_alive])
    live_of = {name: [each for each in blocks if each.cells[CELL["live"]]] for name, blocks in alive.items()}
    made = MetricsPage()
    damaged = {name: max(each.cells[CELL["damaged"]] for each in blocks) for name, blocks in alive.items()}
    made.add(metrics.DAMAGED, (((name,), value) for name, value in damaged.items()))
    _add_metrics(made, all_of, live_of)
    add_path_metrics(made, all_of, live_of)
    add_log_metrics(made, all_of, live_of, spool)
    memories = [RealtimeMetrics(worker.extension).drift for worker in workers]
    add_drift(made, live_drift(memories, references, window_s=drift_window_s))
    return made.text()


def _cells_by_model(workers: list[WorkerMetrics]) -> dict[str, list[ModelCells]]:
    found: dict[str, list[ModelCells]] = {}
    for worker in workers:
        for name, cells in RealtimeMetrics(worker.extension).models():
            found.setdefault(name, []).append(cells)
    return dict(sorted(found.items()))


def _add_metrics(made: MetricsPage, all_of: dict[str, list[ModelCells]], live_of: dict[str, list[ModelCells]]) -> None:
    def total(name: str, cell: str) -> int:
        return sum(each.cells[CELL[cell]] for each in all_of[name])

    for metric, cell in _COUNTERS:
        made.add(metric, (((name,), total(name, cell)) for name in all_of))
    for metric, kind, parts in _PARTS:
        made.add(metric, (((name, part), total(name, f"{kind}_{part}")) for name in all_of for part in parts))
    made.add(
        metrics.STAGE_SECONDS,
        (((name, stage), f"{total(name, f'stage_{stage}') / 1e9:.9f}") for name in all_of for stage in STAGES),
    )
    made.add_histogram(
        metrics.ANSWER_DURATION,
        _BOUNDS,
        (((name,), _buckets(blocks), f"{total(name, 'seconds') / 1e9:.9f}") for name, blocks in all_of.items()),
    )
    for metric, cell in _GAUGES:
        served = {name: [each.cells[CELL[cell]] for each in blocks] for name, blocks in live_of.items()}
        made.add(metric, (((name,), min(values)) for name, values in served.items() if values))


def _buckets(blocks: list[ModelCells]) -> list[int]:
    return merge_first_buckets(
        _FIRST_BUCKET, [sum(each.latency[bucket] for each in blocks) for bucket in range(BUCKETS)]
    )
