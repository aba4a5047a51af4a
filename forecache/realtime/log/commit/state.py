"""What a committer remembers of a model's log: figures for the metrics, each segment counted once.

The file is replaced in one step after a commit, before the segments are removed. A committer that was killed in between
counts them when it finds them again.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from forecache.files import write_durably

_FILE = "committer.json"


@dataclass
class CommitterState:
    """
    Attributes:
        commits: How often rows were committed.
        rows: That were committed.
        lost_damaged: That were written to the spool and could not be read again: torn by a kill, or changed.
        lost_expired: That were older than the log keeps them when their turn came.
        lag_s: Seconds from the newest of the rows committed last until they were in the table.
        committed_at: Unix time of the last commit.
        failing_since: Unix time since when no commit succeeds; 0: they do.
        failure: Why the last one did not.
        lost_by_writers: By the reason, the rows that writers lost which have ended.
        settled: Streams that have ended, are here still, and whose losses are in these figures.
        counted: By stream that has segments here, the number of the last segment in these figures.
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
    """What the committer of a model's folder in the spool has written last; new where it has not, or it is damaged."""
    with suppress(OSError, ValueError, TypeError):
        return CommitterState(**json.loads((folder / _FILE).read_bytes()))
    return CommitterState()


def write_state(folder: Path, state: CommitterState) -> None:
    """Replace it; where the disk is full, the figures of before stay."""
    with suppress(OSError):
        write_durably(folder / _FILE, json.dumps(asdict(state)))
