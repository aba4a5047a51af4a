"""The live drift of real-time models: the counts of all workers, and their distance from the training data."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecache.base.settings import Settings
from forecache.base.statistics import Distance, distance
from forecache.kit.metrics.page import MetricsPage, six_digits
from forecache.plugins.drift.live_counts import (
    ABOVE,
    BELOW,
    NULL,
    REQUESTS,
    ROWS,
    Cells,
    DriftCells,
    DriftReference,
    num_counts,
)
from forecache.realtime.metrics import RealtimeMetrics
from forecache.realtime.served_models import ServedModels
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.worker_metrics import WorkerMetrics

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
    """The live drift of one model over all workers."""

    reference: DriftReference
    total: Cells  # as of `DriftReference.count`, then requests and rows, since the start
    recent: Cells  # the same, in the window
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
    memories = _memories_of(WorkerMetrics.open_all(runtime))
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


def add_live_drift(
    page: MetricsPage, workers: Iterable[WorkerMetrics], references: Mapping[str, DriftReference], *, window_s: float
) -> None:
    """Add the metrics of the live drift of all workers to a page; arguments as of `live_drift`."""
    add_drift(page, live_drift(_memories_of(workers), references, window_s=window_s))


def _memories_of(workers: Iterable[WorkerMetrics]) -> list[memoryview]:
    return [RealtimeMetrics(worker.extension).drift for worker in workers]


def add_drift(page: MetricsPage, found: Mapping[str, ModelDrift]) -> None:
    page.add_each(
        found.items(),
        {
            "forecache_drift_requests_counted_total": lambda each: int(each.total[REQUESTS]),
            "forecache_drift_rows_counted_total": lambda each: int(each.total[ROWS]),
            "forecache_drift_counting_seconds_total": lambda each: round(each.seconds, 6),
            "forecache_drift_window_requests": lambda each: int(each.recent[REQUESTS]),
        },
    )
    page.add_each(
        [((name, each.column, each.name), each) for name, drift in found.items() for each in drift.bins()],
        {
            "forecache_drift_bin_rows_total": lambda each: each.count,
            "forecache_drift_bin_reference_ratio": lambda each: six_digits(each.reference_share),
        },
    )
    page.add_each(
        [((name, column.name), column) for name, each in found.items() for column in each.columns()],
        {
            "forecache_drift_psi": lambda column: six_digits(column.distance.psi),
            "forecache_drift_js_distance": lambda column: six_digits(column.distance.js),
            "forecache_drift_null_ratio": lambda column: six_digits(column.null_ratio),
            "forecache_drift_null_reference_ratio": lambda column: six_digits(column.null_reference),
            "forecache_drift_out_of_range_ratio": lambda column: six_digits(column.out_of_range),
        },
    )
