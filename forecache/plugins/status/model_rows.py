"""The real-time models in the reader's status: releases, fallbacks and reasons, cache, log; sums over all workers."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.kit import format_text as words
from forecache.plugins.status.collect import (
    RATE_S,
    WINDOW_S,
    Attention,
    quantiles,
)
from forecache.plugins.status.history import History, ModelCounts
from forecache.realtime.answer.served_release import uncached_path
from forecache.realtime.http.prometheus import has_logged, lost_by_reason, read_spool_state
from forecache.realtime.metrics import (
    ANSWERED_BY,
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
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.rollout_state import describe_rollout
from forecache.realtime.served_models import ServedModels
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.worker_metrics import WorkerMetrics

_OWN = (*(f"answered_by_{name}" for name in ANSWERED_BY), *(f"reason_{why}" for why in REASONS),
        *(f"stage_{stage}" for stage in STAGES), "in_time", "late", "flagged")  # fmt: skip
_CACHE = ("cache_hits", "cache_joined", "cache_misses")
_NAMES = (*_OWN, *_CACHE)
_SHIFT = 0.25
"""Population stability index that counts as a shift (Siddiqi 2006)."""
_LATE_SHARE = 0.01
_WITHOUT_SHARE = 0.05
_LOOK = "Look at the views that they come from; `forecache train` learns what is usual now."
_FEW = 100
"""Answers below which a share is not judged."""


def request_counts_of(runtime: ReaderSharedMemory) -> dict[str, ModelCounts]:
    """Return the counts of each model for the history."""
    counts = {}
    for model, blocks in blocks_by_model(WorkerMetrics.open_all(runtime)).items():
        buckets = [sum(each.latency[bucket] for each in blocks) for bucket in range(BUCKETS)]
        counts[model] = ModelCounts(buckets, [sum_cell(blocks, name) for name in _NAMES])
    return counts


def status_part(
    models: ServedModels, runtime: ReaderSharedMemory, history: History, settings: Settings
) -> tuple[dict[str, Any], list[Attention]]:
    """Return the member `models` of the status document, and what needs attention."""
    workers = WorkerMetrics.open_all(runtime)
    all_of = blocks_by_model(workers)
    alive = blocks_by_model(worker for worker in workers if worker.pid and worker.is_alive)
    rows: list[dict[str, Any]] = []
    for name in sorted({*models.known, *models.served, *models.failures}):
        blocks, live = all_of.get(name, []), serving_blocks(alive.get(name, []))
        rows.append({
            "name": name,
            **_release(name, models),
            "releases": sorted({each.cells[CELL["release"]] for each in live}),
            **_recent_answers(history, name),
            "cache_bytes": sum_cell(live, "cache_bytes"),
            "processes": sum_cell(live, "processes"),
            "processes_replaced": sum(sum_cell(blocks, f"replaced_{cause}") for cause in CAUSES),
            "breaker_open": sum_cell(live, "breaker_open"),
            "answers_since_start": sum_cell(blocks, "answers"),
            "log": log_figures(blocks, live, settings.request_log_path / name),
            "drift": next((drift_of(name, models, runtime, settings) for drift_of in find_hooks("live_drift_of")), []),
            "rollout": describe_rollout(open_releases(settings, name)),
            "series": {"per_s": history.model_series(name)},
        })  # fmt: skip
    return {"models": rows}, [each for row in rows for each in attention_of(row)]


def _recent_answers(history: History, name: str) -> dict[str, Any]:
    seconds, recent = history.model_counts(name, RATE_S)
    window_s, window = history.model_counts(name, WINDOW_S)
    counts = dict(zip(_NAMES, window.more, strict=False))
    answers, asked = sum(window.buckets), sum(counts[name] for name in _CACHE)
    return {
        "per_s": round(sum(recent.buckets) / seconds, 2) if seconds else 0.0,
        "window_s": round(window_s, 1),
        "answers": answers,
        **quantiles(window.buckets),
        **{name: counts[name] for name in ("in_time", "late", "flagged")},
        "answered_by_counts": {
            name: counts[f"answered_by_{name}"] for name in ANSWERED_BY if counts[f"answered_by_{name}"]
        },
        "fallback_reasons": {why: counts[f"reason_{why}"] for why in REASONS if counts[f"reason_{why}"]},
        "stages_us": {
            stage: round(counts[f"stage_{stage}"] / 1e3 / answers, 1) if answers else 0.0 for stage in STAGES
        },
        "cache_hit_share": (counts["cache_hits"] + counts["cache_joined"]) / asked if asked else None,
    }


def _release(name: str, models: ServedModels) -> dict[str, Any]:
    served = models.served.get(name)
    failed = name in models.failures
    if served is None:
        return {"state": "failed" if failed else "loading", "release": None, "model": None, "deadline_ms": None,
                "runs": None, "fallbacks": [], "cached": False, "created_at": None}  # fmt: skip
    release = served.loaded.release
    return {
        "state": "earlier" if failed else "served",
        "release": release.number,
        "created_at": release.created_at,
        "model": release.model.summary,
        "deadline_ms": release.deadline_ms,
        "runs": "loop" if uncached_path(served.path).in_loop else "process",
        "fallbacks": ["model", *(each.name for each in served.fallbacks)],
        "cached": bool(release.cache_bytes),
    }


def log_figures(blocks: Sequence[ModelCells], live: Sequence[ModelCells], folder: Path) -> dict[str, Any] | None:
    """The figures of a model's log for the status page; None if it has logged nothing.

    `blocks` are of all workers, `live` of those that serve the model now.
    """
    if not has_logged(blocks):
        return None
    look = read_spool_state(folder)
    state = look.state
    return {
        "taken": sum_cell(blocks, "accepted"),
        "committed": state.rows,
        "lost": {reason: lost for reason, lost in lost_by_reason(blocks, state) if lost},
        "in_memory": sum(each.log_counters.waiting for each in live),
        "spool_bytes": look.size,
        "spool_age_s": round(look.age_s, 1),
        "commit_delay_s": round(state.lag_s, 2) if state.commits else None,
        "committed_s_ago": round(time.time() - state.committed_at, 1) if state.committed_at else None,
        "failing_s": round(time.time() - state.failing_since, 1) if state.failing_since else 0.0,
    }


def attention_of(row: Mapping[str, Any]) -> Iterator[Attention]:
    """Yield what needs attention in a model's row of the document."""
    name, answers = row["name"], row["answers"]
    again = f"Run `forecache doctor`, then `forecache release build {name}`; `forecache rollback {name}` goes back."
    if row["state"] == "failed":
        yield Attention("critical", f"No release of {name} can be served; the reader's log has the cause.", again)
    elif row["state"] == "earlier":
        what = f"The current release of {name} cannot be served; release {row['release']} answers instead."
        yield Attention("warning", what, again)
    if row["breaker_open"]:
        workers = f"{row['breaker_open']} workers"
        what = f"{name} fails so often that {workers} do not ask it for a while; its fallbacks answer."
        yield Attention("critical", what, f"The reader's log has the cause; `forecache rollback {name}` goes back.")
    if answers >= _FEW:
        over = words.span(row["window_s"])
        if row["late"] / answers >= _LATE_SHARE:
            what = f"{words.percent(row['late'] / answers)} of the answers of {name} were late in the last {over}."
            yield Attention("warning", what, "`forecache advise` says whether a cache or processes of its own help.")
        without = sum(row["fallback_reasons"].values())
        if without / answers >= _WITHOUT_SHARE:
            reason = words.reason(max(row["fallback_reasons"], key=row["fallback_reasons"].__getitem__))
            share = words.percent(without / answers)
            what = f"{share} of the answers of {name} came without the model, mostly: {reason}."
            yield Attention("warning", what, "The fallbacks answered; the reader's log has more on failures.")
    if moved := [each for each in row["drift"] if each["psi"] > _SHIFT]:
        named = ", ".join(f"{each['column']} (PSI {each['psi']:.2f})" for each in moved)
        yield Attention("warning", f"{name} gets or answers other values than in training: {named}.", _LOOK)
    log = row["log"]
    if log is not None and log["failing_s"]:
        what = f"The request log of {name} has not been committed for {words.span(log['failing_s'])}."
        remedy = "`forecache log spool` shows what waits; the log of `forecache serve` says why."
        yield Attention("warning", what, remedy)
