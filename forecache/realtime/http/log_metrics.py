"""Figures of the request log: of the workers that write it, and of the committer that empties the spool."""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecache.realtime.log.spool_files import CommitterState, read_state, segments_of, streams_of
from forecache.realtime.metrics import LOST_REASONS, ModelCells, sum_cell

_PATIENCE_S = 0.05
"""Longest wait for reading the spool, which usually takes a millisecond or two."""


def has_logged(blocks: Iterable[ModelCells]) -> bool:
    """Return whether a model has logged anything, in any worker."""
    return any(any(each.log_counters.cells) for each in blocks)


def lost_by_reason(blocks: Sequence[ModelCells], state: CommitterState) -> Iterator[tuple[str, int]]:
    """Yield the rows of a model that were lost, by reason, with those that the committer could not read or use."""
    for reason in LOST_REASONS:
        yield reason, sum_cell(blocks, f"lost_{reason}")
    yield "damaged", state.lost_damaged
    yield "expired", state.lost_expired


def log_figures(blocks: Sequence[ModelCells], live: Sequence[ModelCells], folder: Path) -> dict[str, Any] | None:
    """Return the figures of a model's log for the status page; None if it has logged nothing.

    Args:
        blocks, live: The cells of all workers, and of those that serve the model now.
        folder: Folder of the model in the spool.
    """
    if not has_logged(blocks):
        return None
    look = _read_spool_state(folder)
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


def read_spool_states(spool: Path, models: Iterable[str]) -> dict[str, SpoolState]:
    """Read the state of each model's folder in the spool; the last known one if the disk does not answer in time."""
    folders = {name: spool / name for name in models}
    states = _disk.read_states(list(folders.values()))
    return {name: states[folder] for name, folder in folders.items()}


def _read_spool_state(folder: Path) -> SpoolState:
    size, oldest = 0, 0.0
    for stream in streams_of(folder):
        for segment in segments_of(stream):
            with suppress(FileNotFoundError):
                status = segment.path.stat()
                size += status.st_size
                oldest = min(oldest or status.st_mtime, status.st_mtime)
    return SpoolState(read_state(folder), size, oldest)
