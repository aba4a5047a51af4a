"""The state of a committer for a model's log: figures for the metrics, in which each segment is counted once.

The file is replaced atomically after a commit, before the segments are removed. After a kill in between, the segments
are counted when they are found again.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from forecache.base.files import write_durably

_FILE = "committer.json"


@dataclass
class CommitterState:
    """The figures of a model's log.

    Attributes:
        commits: Number of commits with rows.
        rows: Rows committed.
        lost_damaged: Rows in the spool that could not be read: torn by a kill, or changed.
        lost_expired: Rows that were too old when they were committed.
        lag_s: Seconds from the arrival of the newest row of the last commit until it was in the table.
        committed_at: Unix time of the last commit.
        failing_since: Unix time since which commits fail; 0: they succeed.
        failure: Error of the last failed commit.
        lost_by_writers: Rows lost by writers that have ended, by reason.
        settled: Ended streams that still exist and whose losses are in these figures.
        counted: By existing stream, the number of the last segment in these figures.
    """

    commits: int = 0
    rows: int = 0
    lost_damaged: int = 0
    lost_expired: int = 0
    lag_s: float = 0.0
    committed_at: float = 0.0
    failing_since: float = 0.0
    failure: str = ""
    lost_by_writers: dict[str, int] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)


def read_state(folder: Path) -> CommitterState:
    """Read the committer state in a model's folder of the spool; a new one if it is missing or damaged."""
    with suppress(OSError, ValueError, TypeError):
        return CommitterState(**json.loads((folder / _FILE).read_bytes()))
    return CommitterState()


def write_state(folder: Path, state: CommitterState) -> None:
    """Replace the committer state; on a full disk the old one stays."""
    with suppress(OSError):
        write_durably(folder / _FILE, json.dumps(asdict(state)))
