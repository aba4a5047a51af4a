"""The metrics of the real-time models of all workers, for Prometheus."""

from collections.abc import Iterator

from forecache.reader.processes.metrics import WorkerMetrics
from forecache.reader.processes.shared_memory import Runtime
from forecache.realtime.http.guard_metrics import guard_lines
from forecache.realtime.metrics import BUCKETS, CELL, REASONS, RUNGS, STAGES, ModelCells, RealtimeMetrics

_FIRST_BUCKET = 6
"""Buckets below 64 us are shown as one."""
_COUNTERS = (
    ("answers_total", "answers", "Answered requests."),
    ("late_answers_total", "late", "Answers that were not ready before their deadline."),
    ("flagged_answers_total", "flagged", "Answers of a model whose views are not those it was trained with."),
    ("swaps_total", "swaps", "Releases swapped in, over all workers."),
    ("swap_failures_total", "swap_failures", "Releases that could not be loaded, over all workers."),
)
_GAUGES = (
    ("release", "release", "Number of the release that answers; the lowest where workers differ for a moment."),
    ("runs_in_loop", "in_loop", "1 where the model runs on the event loop, 0 in processes of its own."),
)


def page(runtime: Runtime) -> str:
    """Lines in Prometheus's text format, version 0.0.4."""
    workers = [WorkerMetrics(runtime.slot(index)) for index in range(runtime.num_slots)]
    all_of = _by_model(workers)
    live_of = {
        name: [each for each in blocks if each.cells[CELL["live"]]]
        for name, blocks in _by_model([worker for worker in workers if worker.alive]).items()
    }
    return "".join(f"{line}\n" for line in _lines(all_of, live_of))


def _by_model(workers: list[WorkerMetrics]) -> dict[str, list[ModelCells]]:
    found: dict[str, list[ModelCells]] = {}
    for worker in workers:
        for name, cells in RealtimeMetrics(worker.extension).models():
            found.setdefault(name, []).append(cells)
    return dict(sorted(found.items()))


def _lines(all_of: dict[str, list[ModelCells]], live_of: dict[str, list[ModelCells]]) -> Iterator[str]:
    def total(name: str, cell: str) -> int:
        return sum(each.cells[CELL[cell]] for each in all_of[name])

    for metric, cell, help_ in _COUNTERS:
        yield from _head(metric, "counter", help_)
        for name in all_of:
            yield f'forecache_realtime_{metric}{{model="{name}"}} {total(name, cell)}'
    yield from _head("items_total", "counter", "Scored candidates, or values, by the rung that they come from.")
    for name in all_of:
        for rung in RUNGS:
            yield f'forecache_realtime_items_total{{model="{name}",rung="{rung}"}} {total(name, f"rung_{rung}")}'
    yield from _head("without_model_total", "counter", "Answers without the model, by the reason.")
    for name in all_of:
        for why in REASONS:
            yield f'forecache_realtime_without_model_total{{model="{name}",why="{why}"}} {total(name, f"why_{why}")}'
    yield from _head("stage_seconds_total", "counter", "Time of answers by their stage.")
    for name in all_of:
        for stage in STAGES:
            seconds = total(name, f"stage_{stage}") / 1e9
            yield f'forecache_realtime_stage_seconds_total{{model="{name}",stage="{stage}"}} {seconds:.9f}'
    yield from _head("answer_seconds", "histogram", "Time from the arrival of a request until its answer is written.")
    for name, blocks in all_of.items():
        buckets = [sum(each.latency[bucket] for each in blocks) for bucket in range(BUCKETS)]
        below = sum(buckets[:_FIRST_BUCKET])
        for bucket in range(_FIRST_BUCKET, BUCKETS - 1):
            below += buckets[bucket]
            yield f'forecache_realtime_answer_seconds_bucket{{model="{name}",le="{2**bucket / 1e6:.6f}"}} {below}'
        yield f'forecache_realtime_answer_seconds_bucket{{model="{name}",le="+Inf"}} {sum(buckets)}'
        yield f'forecache_realtime_answer_seconds_sum{{model="{name}"}} {total(name, "seconds") / 1e9:.9f}'
        yield f'forecache_realtime_answer_seconds_count{{model="{name}"}} {sum(buckets)}'
    for metric, cell, help_ in _GAUGES:
        yield from _head(metric, "gauge", help_)
        for name, blocks in live_of.items():
            if blocks:
                yield f'forecache_realtime_{metric}{{model="{name}"}} {min(each.cells[CELL[cell]] for each in blocks)}'
    yield from guard_lines(all_of, live_of)


def _head(metric: str, kind: str, help_: str) -> tuple[str, str]:
    return f"# HELP forecache_realtime_{metric} {help_}", f"# TYPE forecache_realtime_{metric} {kind}"
