"""The live drift of real-time models: the counts of all workers, and their distance from the training data."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecache.base.settings import Settings
from forecache.base.statistics import Distance, distance
from forecache.realtime.drift.cells import Cells, DriftCells
from forecache.realtime.drift.reference import ABOVE, BELOW, NULL, DriftReference
from forecache.realtime.drift.watch import REQUESTS, ROWS, num_counts
from forecache.realtime.metrics import RealtimeMetrics
from forecache.realtime.served_models import ServedModels
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.worker_metrics import WorkerMetrics

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
class LiveBin:
    """Rows in a bin since the start, and the share of the training data's rows in it."""

    column: str
    name: str
    count: int
    reference_share: float


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

    def bins(self) -> Iterator[LiveBin]:
        """Yield the bins of each column."""
        counts = self.total.tolist()
        for place, column in enumerate(self.reference.columns):
            now, before = self.reference.counts_by_bin(place, counts), self.reference.training_counts_by_bin(place)
            rows = sum(before.values()) or 1
            for name, count in now.items():
                yield LiveBin(column.name, name, count, before[name] / rows)


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
    memories = [RealtimeMetrics(worker.extension).drift for worker in WorkerMetrics.open_all(runtime)]
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
