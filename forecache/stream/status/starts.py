"""Counts a stream's starts by the sensor, so that one that fails at once is restarted with growing pauses."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from forecache.base.files import write_durably
from forecache.base.stream_state import StreamState, stream_folder
from forecache.kit.process.periodic import Backoff

STABLE_S = 600.0
"""Seconds after which a start counts as successful."""
AGAIN_AND_AGAIN = 3
"""So many unsuccessful starts in a row cause an alert."""
_BACKOFF = Backoff(10.0, 1800.0)
_FILE = "STARTS"


@dataclass(frozen=True)
class Starts:
    """
    Attributes:
        total: Number of starts.
        in_a_row: Number of last starts after which it ran for less than `STABLE_S`.
        last_at: Unix time of the last start; 0: never.
    """

    total: int = 0
    in_a_row: int = 0
    last_at: float = 0.0

    @property
    def pause_s(self) -> float:
        """Least seconds from the last start to the next: 0, 10, 20, 40, ... up to half an hour."""
        return _BACKOFF.pause_s(self.in_a_row) if self.in_a_row else 0.0

    @property
    def next_at(self) -> float:
        """Unix time before which it is not started again."""
        return self.last_at + self.pause_s

    @property
    def is_failing_repeatedly(self) -> bool:
        """True if it failed at `AGAIN_AND_AGAIN` or more starts in a row."""
        return self.in_a_row >= AGAIN_AND_AGAIN

    def reset_if_stable(self, state: StreamState | None) -> "Starts":
        """Return the starts without earlier failures if the stream has run for `STABLE_S` since the last start."""
        has_lasted = state is not None and self.last_at > 0 and state.written_at - self.last_at >= STABLE_S
        return Starts(self.total, 0, self.last_at) if has_lasted else self

    def with_start(self, at: float) -> "Starts":
        return Starts(self.total + 1, self.in_a_row + 1, at)


def read_starts(home: Path, name: str) -> Starts:
    """Read the starts of a stream; none if there is no record, or it cannot be read."""
    with suppress(OSError, ValueError, TypeError):
        return Starts(**json.loads((stream_folder(home, name) / _FILE).read_bytes()))
    return Starts()


def write_starts(home: Path, name: str, starts: Starts) -> None:
    write_durably(stream_folder(home, name) / _FILE, json.dumps(asdict(starts)))
