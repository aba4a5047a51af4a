"""Metrics of the request log: of the workers that write it, and of the committer that empties the spool."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecache.kit.metrics import request_log as metrics
from forecache.kit.metrics.page import MetricsPage
from forecache.realtime.log.commit.committer_state import CommitterState, read_state
from forecache.realtime.log.row_counters import REASONS
from forecache.realtime.log.spool.spool_files import segments_of, streams_of
from forecache.realtime.metrics import ModelCells

_OF_COMMITTER = (
    (metrics.COMMITS, "commits"),
    (metrics.ROWS_COMMITTED, "rows"),
    (metrics.COMMIT_DELAY, "lag_s"),
    (metrics.LAST_COMMIT, "committed_at"),
)
_PATIENCE_S = 0.05
"""Longest wait for reading the spool, which usually takes a millisecond or two."""
Blocks = Mapping[str, Sequence[ModelCells]]


def add_log_metrics(page: MetricsPage, all_of: Blocks, live_of: Blocks, spool: Path) -> None:
    """Add the metrics of the models that have logged something to a page.

    Args:
        all_of, live_of: By model, the cells of all workers, and of those that serve it now.
        spool: Folder of the spool.
    """
    logged = [name for name, blocks in all_of.items() if any(any(each.log_counters.cells) for each in blocks)]
    looks = _disk.read_states([spool / name for name in logged])
    states = {name: looks[spool / name].state for name in logged}
    waiting = {name: looks[spool / name] for name in logged}
    page.add(
        metrics.ROWS, (((name,), sum(each.log_counters.get("accepted") for each in all_of[name])) for name in logged)
    )
    page.add(
        metrics.ROWS_LOST,
        (((name, reason), lost) for name in logged for reason, lost in _lost_by_reason(all_of[name], states[name])),
    )
    page.add(
        metrics.MEMORY_ROWS,
        (((name,), sum(each.log_counters.waiting for each in live_of.get(name, ()))) for name in logged),
    )
    page.add(metrics.SPOOL_BYTES, (((name,), each.size) for name, each in waiting.items()))
    page.add(metrics.SPOOL_AGE, (((name,), round(each.age_s, 3)) for name, each in waiting.items()))
    for metric, figure in _OF_COMMITTER:
        page.add(metric, (((name,), getattr(state, figure)) for name, state in states.items()))
    page.add(metrics.FAILING, (((name,), int(bool(state.failing_since))) for name, state in states.items()))


def log_figures(blocks: Sequence[ModelCells], live: Sequence[ModelCells], folder: Path) -> dict[str, Any] | None:
    """Return the figures of a model's log for the status page; None if it has logged nothing.

    Args:
        blocks, live: The cells of all workers, and of those that serve the model now.
        folder: Folder of the model in the spool.
    """
    if not any(any(each.log_counters.cells) for each in blocks):
        return None
    look = _read_spool_state(folder)
    state = look.state
    return {
        "taken": sum(each.log_counters.get("accepted") for each in blocks),
        "committed": state.rows,
        "lost": {reason: lost for reason, lost in _lost_by_reason(blocks, state) if lost},
        "in_memory": sum(each.log_counters.waiting for each in live),
        "spool_bytes": look.size,
        "spool_age_s": round(look.age_s, 1),
        "commit_delay_s": round(state.lag_s, 2) if state.commits else None,
        "committed_s_ago": round(time.time() - state.committed_at, 1) if state.committed_at else None,
        "failing_s": round(time.time() - state.failing_since, 1) if state.failing_since else 0.0,
    }


def _lost_by_reason(blocks: Sequence[ModelCells], state: CommitterState) -> Iterator[tuple[str, int]]:
    for reason in REASONS:
        yield reason, sum(each.log_counters.get(f"lost_{reason}") for each in blocks)
    yield "damaged", state.lost_damaged
    yield "expired", state.lost_expired


@dataclass(frozen=True)
class SpoolState:
    """State of a model's folder in the spool.

    Attributes:
        size: Bytes of its segments.
        oldest: Unix time of its oldest segment; 0 if there is none.
    """

    state: CommitterState
    size: int = 0
    oldest: float = 0.0

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
                self._known[folder] = _read_spool_state(folder)


_disk = SpoolWatcher()


def _read_spool_state(folder: Path) -> SpoolState:
    size, oldest = 0, 0.0
    for stream in streams_of(folder):
        for segment in segments_of(stream):
            with suppress(FileNotFoundError):
                status = segment.path.stat()
                size += status.st_size
                oldest = min(oldest or status.st_mtime, status.st_mtime)
    return SpoolState(read_state(folder), size, oldest)
