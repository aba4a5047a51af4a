"""Metrics of models in processes of their own, of their circuit breaker, their cache and their remote reads."""

from collections.abc import Iterator, Mapping, Sequence

from forecache.realtime.metrics import ModelCells
from forecache.realtime.workers.counters import BATCHES, CAUSES, CELLS

_COUNTERS = (
    ("model_processes_started_total", "started", "Model processes that were started."),
    ("abandoned_total", "abandoned", "Requests that were given up at their deadline while a model process had them."),
    ("handed_on_total", "requeued", "Requests that a failed model process had not begun, and that another one got."),
    ("breaker_opened_total", "breaker_opened", "Times that the circuit breaker opened."),
    ("breaker_refused_total", "breaker_refused", "Requests that were answered without the model as it was open."),
    ("cache_hits_total", "cache_hits", "Requests whose scores were in the cache."),
    ("cache_joined_total", "cache_joined", "Requests that waited for the scores of an equal one under way."),
    ("cache_misses_total", "cache_misses", "Requests whose scores were not in the cache."),
    ("hedged_reads_total", "hedged_reads", "Reads of a remote store that were sent a second time."),
    ("hedges_won_total", "hedges_won", "Second reads that were answered first."),
    ("late_reads_total", "late_reads", "Reads of a remote store that were given up at the deadline."),
)
_GAUGES = (
    ("model_processes", "processes", "Warm model processes, over all workers."),
    ("breaker_open", "breaker_open", "Workers whose circuit breaker is open."),
    ("cache_bytes", "cache_bytes", "Memory of cached scores, over all workers."),
)
Blocks = Mapping[str, Sequence[ModelCells]]


def guard_lines(all_of: Blocks, live_of: Blocks) -> Iterator[str]:
    """Lines in Prometheus's text format.

    Args:
        all_of, live_of: By model, the cells of all workers, and of those that serve it now.
    """

    def total(blocks: Sequence[ModelCells], cell: str) -> int:
        place = CELLS.index(cell)
        return sum(each.workers[place] for each in blocks)

    for metric, cell, help_ in _COUNTERS:
        yield from _head(metric, "counter", help_)
        for name, blocks in all_of.items():
            yield f'forecache_realtime_{metric}{{model="{name}"}} {total(blocks, cell)}'
    yield from _head("cache_saved_seconds_total", "counter", "Time that cached scores would have taken to compute.")
    for name, blocks in all_of.items():
        seconds = total(blocks, "cache_saved_us") / 1e6
        yield f'forecache_realtime_cache_saved_seconds_total{{model="{name}"}} {seconds:.6f}'
    yield from _head("model_processes_replaced_total", "counter", "Model processes that were replaced, by the cause.")
    for name, blocks in all_of.items():
        for cause in CAUSES:
            replaced = total(blocks, f"replaced_{cause}")
            yield f'forecache_realtime_model_processes_replaced_total{{model="{name}",cause="{cause}"}} {replaced}'
    yield from _head("batch_requests", "histogram", "Requests in a call of a model in a process of its own.")
    for name, blocks in all_of.items():
        below = 0
        for bound in BATCHES:
            below += total(blocks, f"batches_{bound}")
            yield f'forecache_realtime_batch_requests_bucket{{model="{name}",le="{bound}"}} {below}'
        below += total(blocks, "batches_more")
        yield f'forecache_realtime_batch_requests_bucket{{model="{name}",le="+Inf"}} {below}'
        yield f'forecache_realtime_batch_requests_sum{{model="{name}"}} {total(blocks, "batched_requests")}'
        yield f'forecache_realtime_batch_requests_count{{model="{name}"}} {below}'
    for metric, cell, help_ in _GAUGES:
        yield from _head(metric, "gauge", help_)
        for name, blocks in live_of.items():
            if blocks:
                yield f'forecache_realtime_{metric}{{model="{name}"}} {total(blocks, cell)}'


def _head(metric: str, kind: str, help_: str) -> tuple[str, str]:
    return f"# HELP forecache_realtime_{metric} {help_}", f"# TYPE forecache_realtime_{metric} {kind}"
