"""Metrics of the paths to models: worker processes, circuit breaker, cache and remote reads."""

from collections.abc import Mapping, Sequence

from forecache.kit.metrics import model_processes as metrics
from forecache.kit.metrics.page import MetricsPage
from forecache.realtime.metrics import ModelCells
from forecache.realtime.workers.path_counters import BATCHES, CAUSES, CELLS

_COUNTERS = (
    (metrics.STARTED, "started"),
    (metrics.TEMPLATES_STARTED, "templates_started"),
    (metrics.TEMPLATE_FAILURES, "template_failures"),
    (metrics.ABANDONED, "abandoned"),
    (metrics.HANDED_ON, "requeued"),
    (metrics.BREAKER_OPENED, "breaker_opened"),
    (metrics.BREAKER_REFUSED, "breaker_refused"),
    (metrics.CACHE_HITS, "cache_hits"),
    (metrics.CACHE_JOINED, "cache_joined"),
    (metrics.CACHE_MISSES, "cache_misses"),
    (metrics.HEDGED_READS, "hedged_reads"),
    (metrics.HEDGES_WON, "hedges_won"),
    (metrics.LATE_READS, "late_reads"),
)
_GAUGES = (
    (metrics.PROCESSES, "processes"),
    (metrics.BREAKER_OPEN, "breaker_open"),
    (metrics.CACHE_BYTES, "cache_bytes"),
)
Blocks = Mapping[str, Sequence[ModelCells]]


def add_path_metrics(page: MetricsPage, all_of: Blocks, live_of: Blocks) -> None:
    """Add the metrics to a page.

    Args:
        all_of, live_of: By model, the cells of all workers, and of those that serve it now.
    """

    def total(blocks: Sequence[ModelCells], cell: str) -> int:
        place = CELLS.index(cell)
        return sum(each.path_cells[place] for each in blocks)

    for metric, cell in _COUNTERS:
        page.add(metric, (((name,), total(blocks, cell)) for name, blocks in all_of.items()))
    page.add(
        metrics.CACHE_SAVED,
        (((name,), f"{total(blocks, 'cache_saved_us') / 1e6:.6f}") for name, blocks in all_of.items()),
    )
    page.add(
        metrics.REPLACED,
        (((name, cause), total(blocks, f"replaced_{cause}")) for name, blocks in all_of.items() for cause in CAUSES),
    )
    bounds = [str(bound) for bound in BATCHES]
    page.add_histogram(
        metrics.BATCH_REQUESTS,
        bounds,
        (
            (
                (name,),
                [total(blocks, f"batches_{bound}") for bound in (*bounds, "more")],
                total(blocks, "batched_requests"),
            )
            for name, blocks in all_of.items()
        ),
    )
    for metric, cell in _GAUGES:
        page.add(metric, (((name,), total(blocks, cell)) for name, blocks in live_of.items() if blocks))
