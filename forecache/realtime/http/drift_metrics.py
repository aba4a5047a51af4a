"""Metrics of live drift: the counts of all workers, and their distance from the training data."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecache.base.settings import Settings
from forecache.base.statistics import Distance, distance
from forecache.kit.metrics import drift as metrics
from forecache.kit.metrics.metric import Metric
from forecache.kit.metrics.page import MetricsPage
from forecache.plugins.drift.live.cells import Cells, DriftCells
from forecache.plugins.drift.live.reference import ABOVE, BELOW, NULL, DriftReference
from forecache.plugins.drift.live.watch import REQUESTS, ROWS, num_counts
from forecache.realtime.metrics import RealtimeMetrics
from forecache.realtime.served_models import ServedModels
from forecache.serve.reader.processes.shared_memory import ReaderSharedMemory
from forecache.serve.reader.processes.worker_metrics import WorkerMetrics

_EFFECTS: tuple[tuple[Metric, "Callable[[LiveColumnDrift], float]"], ...] = (
    (metrics.PSI, lambda column: column.distance.psi),
    (metrics.JS, lambda column: column.distance.js),
    (metrics.NULL_RATIO, lambda column: column.null_ratio),
    (metrics.NULL_REFERENCE, lambda column: column.null_reference),
    (metrics.OUT_OF_RANGE, lambda column: column.out_of_range),
)
SHIFT = 0.25
"""Population stability index that counts as a shift (Siddiqi 2006)."""
LEAST_REQUESTS = 300
"""With fewer requests in the window, drift is not judged: chance alone gives ten bins an index of about 0.03 then."""


@dataclass(frozen=True)
class LiveColumnDrift:
    """Distance of a model's column from its training data, in the last window."""

    name: str
    distance: Distance
    null_ratio: float
    null_reference: float
    out_of_range: float


@dataclass(frozen=True)
class ModelDrift:
    """The live drift of one model over all workers.

    Attributes:
        total, recent: Counts as of `DriftReference.count`, then requests and rows; since the start, and in the window.
    """

    reference: DriftReference
    total: Cells
    recent: Cells
    seconds: float

    def columns(self) -> Iterator[LiveColumnDrift]:
        """Yield the drift of each column; nothing before there are enough requests in the window."""
        if self.recent[REQUESTS] < LEAST_REQUESTS:
            return
        rows = int(self.recent[ROWS])
        for place, column in enumerate(self.reference.columns):
            now = self.reference.counts_by_bin(place, self.recent.tolist())
            before = self.reference.training_counts_by_bin(place)
            known = sum(before.values())
            if known and rows:
                yield LiveColumnDrift(
                    column.name,
                    distance(list(before.values()), list(now.values())),
                    now[NULL] / rows,
                    before[NULL] / known,
                    (now[BELOW] + now[ABOVE]) / rows,
                )


def live_drift(
    memories: Iterable[memoryview], references: Mapping[str, DriftReference], *, window_s: float
) -> dict[str, ModelDrift]:
    """Add up the drift of the models whose bins are known here, by name.

    Args:
        memories: Of all workers, including those that have ended.
        references: By model, the bins of the served release.
    """
    now = time.monotonic()
    found: dict[str, ModelDrift] = {}
    for memory in memories:
        for block in DriftCells(memory).blocks():
            reference = references.get(block.name)
            if reference is None or block.key != reference.key:
                continue
            empty = np.zeros(num_counts(reference), np.uint64)
            before = found.get(block.name, ModelDrift(reference, empty, empty, 0.0))
            found[block.name] = ModelDrift(
                reference,
                before.total + block.total,
                before.recent + block.recent_counts(now, window_s),
                before.seconds + block.seconds,
            )
    return dict(sorted(found.items()))


def drift_of(name: str, models: ServedModels, runtime: ReaderSharedMemory, settings: Settings) -> list[dict[str, Any]]:
    """Return the columns of a model with the largest drift, at most five; empty if drift is not counted."""
    served = models.served.get(name)
    if served is None or served.loaded.reference is None:
        return []
    slots = (WorkerMetrics(runtime.slot(index)) for index in range(runtime.num_slots))
    memories = [RealtimeMetrics(worker.extension).drift for worker in slots]
    found = live_drift(memories, {name: served.loaded.reference}, window_s=settings.reader_drift_window_s)
    columns = sorted(found[name].columns(), key=lambda each: -each.distance.psi)[:5] if name in found else []
    return [
        {
            "column": each.name,
            "psi": round(each.distance.psi, 4),
            "null_share": round(each.null_ratio, 4),
            "out_of_range_share": round(each.out_of_range, 4),
        }
        for each in columns
    ]


def add_drift(page: MetricsPage, found: Mapping[str, ModelDrift]) -> None:
    """Add the metrics of live drift to a page."""
    page.add(metrics.REQUESTS_COUNTED, (((name,), int(each.total[REQUESTS])) for name, each in found.items()))
    page.add(metrics.ROWS_COUNTED, (((name,), int(each.total[ROWS])) for name, each in found.items()))
    page.add(metrics.COUNTING, (((name,), f"{each.seconds:.6f}") for name, each in found.items()))
    page.add(metrics.BIN_ROWS, _bins(found))
    page.add(metrics.BIN_REFERENCE, _reference_shares(found))
    page.add(metrics.WINDOW_REQUESTS, (((name,), int(each.recent[REQUESTS])) for name, each in found.items()))
    columns = [(name, column) for name, each in found.items() for column in each.columns()]
    for metric, value in _EFFECTS:
        page.add(metric, (((name, column.name), f"{value(column):.6g}") for name, column in columns))


Bins = Iterator[tuple[tuple[str, str, str], object]]


def _bins(found: Mapping[str, ModelDrift]) -> Bins:
    for name, each in found.items():
        counts = each.total.tolist()
        for place, column in enumerate(each.reference.columns):
            for bin_name, count in each.reference.counts_by_bin(place, counts).items():
                yield (name, column.name, bin_name), count


def _reference_shares(found: Mapping[str, ModelDrift]) -> Bins:
    for name, each in found.items():
        for place, column in enumerate(each.reference.columns):
            counts = each.reference.training_counts_by_bin(place)
            rows = sum(counts.values()) or 1
            for bin_name, count in counts.items():
                yield (name, column.name, bin_name), f"{count / rows:.6g}"
