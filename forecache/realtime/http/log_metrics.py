"""Metrics of the request log: of the workers that write it, and of the committer that the spool is emptied by."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from forecache.metrics import request_log as metrics
from forecache.metrics.page import Page
from forecache.realtime.log.commit.state import CommitterState, read_state
from forecache.realtime.log.counters import REASONS
from forecache.realtime.log.spool.files import segments_of, streams_of
from forecache.realtime.metrics import ModelCells

_OF_COMMITTER = (
    (metrics.COMMITS, "commits"),
    (metrics.ROWS_COMMITTED, "rows"),
    (metrics.COMMIT_DELAY, "lag_s"),
    (metrics.LAST_COMMIT, "committed_at"),
)
Blocks = Mapping[str, Sequence[ModelCells]]


def add_log(page: Page, all_of: Blocks, live_of: Blocks, spool: Path) -> None:
    """Add the metrics of the models that have logged something to a page.

    Args:
        all_of, live_of: By model, the cells of all workers, and of those that serve it now.
        spool: Where the logged answers wait.
    """
    logged = [name for name, blocks in all_of.items() if any(any(each.log.cells) for each in blocks)]
    states = {name: read_state(spool / name) for name in logged}
    waiting = {name: _waiting(spool / name) for name in logged}
    page.add(metrics.ROWS, (((name,), sum(each.log.get("accepted") for each in all_of[name])) for name in logged))
    page.add(
        metrics.ROWS_LOST,
        (((name, reason), lost) for name in logged for reason, lost in _lost(all_of[name], states[name])),
    )
    page.add(
        metrics.MEMORY_ROWS,
        (((name,), sum(each.log.waiting for each in live_of.get(name, ()))) for name in logged),
    )
    page.add(metrics.SPOOL_BYTES, (((name,), size) for name, (size, _) in waiting.items()))
    page.add(metrics.SPOOL_AGE, (((name,), round(age_s, 3)) for name, (_, age_s) in waiting.items()))
    for metric, figure in _OF_COMMITTER:
        page.add(metric, (((name,), getattr(state, figure)) for name, state in states.items()))
    page.add(metrics.FAILING, (((name,), int(bool(state.failing_since))) for name, state in states.items()))


def log_figures(blocks: Sequence[ModelCells], live: Sequence[ModelCells], folder: Path) -> dict[str, Any] | None:
    """What the status page shows of a model's log; None where it has logged nothing.

    Args:
        blocks, live: The cells of all workers, and of those that serve the model now.
        folder: Where its logged answers wait.
    """
    if not any(any(each.log.cells) for each in blocks):
        return None
    state = read_state(folder)
    size, age_s = _waiting(folder)
    return {
        "taken": sum(each.log.get("accepted") for each in blocks),
        "committed": state.rows,
        "lost": {reason: lost for reason, lost in _lost(blocks, state) if lost},
        "in_memory": sum(each.log.waiting for each in live),
        "spool_bytes": size,
        "spool_age_s": round(age_s, 1),
        "commit_delay_s": round(state.lag_s, 2) if state.commits else None,
        "committed_s_ago": round(time.time() - state.committed_at, 1) if state.committed_at else None,
        "failing_s": round(time.time() - state.failing_since, 1) if state.failing_since else 0.0,
    }


def _lost(blocks: Sequence[ModelCells], state: CommitterState) -> Iterator[tuple[str, int]]:
    for reason in REASONS:
        yield reason, sum(each.log.get(f"lost_{reason}") for each in blocks)
    yield "damaged", state.lost_damaged
    yield "expired", state.lost_expired


def _waiting(folder: Path) -> tuple[int, float]:
    """Bytes in a model's spool, and the age in seconds of its oldest segment."""
    size, oldest = 0, 0.0
    for stream in streams_of(folder):
        for segment in segments_of(stream):
            with suppress(FileNotFoundError):
                status = segment.path.stat()
                size += status.st_size
                oldest = min(oldest or status.st_mtime, status.st_mtime)
    return size, max(0.0, time.time() - oldest) if oldest else 0.0
