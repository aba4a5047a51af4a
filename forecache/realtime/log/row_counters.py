"""Counters of the rows of a request log: logged and lost rows of one worker, and losses recorded in the spool.

The cells of a worker may be in shared memory, which outlives it.
"""

from collections import Counter

from forecache.base.settings import Settings
from forecache.realtime.log.commit.committer_state import read_state
from forecache.realtime.log.spool.spool_files import LOCK, read_note, streams_of

REASONS = ("memory", "spool", "disk", "killed", "error")
"""Reasons why a worker lost rows: no room in memory (the writer is slow or hangs) or in the spool; a failed write; the
worker was killed, or stopped while its disk hung, with rows in memory; an answer could not be encoded."""
CELLS = ("accepted", "spooled", *(f"lost_{reason}" for reason in REASONS), "sending")
_PLACE = {name: place for place, name in enumerate(CELLS)}


class LogCounters:
    """
    Args:
        cells: Of `len(CELLS)`, in their order; None: memory of its own.
    """

    def __init__(self, cells: memoryview | list[int] | None = None) -> None:
        self.cells: memoryview | list[int] = [0] * len(CELLS) if cells is None else cells

    def add(self, name: str, number: int = 1) -> None:
        """Count rows. The loop's thread counts "accepted", "lost_memory" and "lost_error", the writer's all others."""
        self.cells[_PLACE[name]] += number

    def set_sending(self, is_sending: bool) -> None:
        """Set the mark that an answer is being sent that is not in the log yet."""
        self.cells[_PLACE["sending"]] = int(is_sending)

    def get(self, name: str) -> int:
        return self.cells[_PLACE[name]]

    def losses_by_reason(self) -> dict[str, int]:
        """Return the number of lost rows by reason."""
        return {reason: self.get(f"lost_{reason}") for reason in REASONS}

    @property
    def waiting(self) -> int:
        """Number of accepted rows that are neither in the spool nor counted as lost."""
        gone = sum(self.get(name) for name in ("spooled", "lost_spool", "lost_disk", "lost_killed"))
        return max(0, self.get("accepted") - gone)

    def count_abandoned_rows(self) -> None:
        """Count as lost the rows that the last worker with these cells had in memory, or had just sent, when it ended.

        Rows that it had written but not yet counted are included, although they are in the spool.
        """
        self.add("accepted", self.get("sending"))
        self.set_sending(False)
        self.add("lost_killed", self.waiting)


def lost_rows(settings: Settings, name: str) -> dict[str, int]:
    """Count the rows of a model's log that were lost here, by reason, since its folder in the spool was made.

    The reasons are those of the metric `forecache_request_log_rows_lost_total`. Losses of a writer that could not
    create its folder are not included.
    """
    folder = settings.request_log_path / name
    state = read_state(folder)
    found = Counter({"damaged": state.lost_damaged, "expired": state.lost_expired})
    found.update(state.lost_by_writers)
    for stream in streams_of(folder):
        if stream.name not in state.settled:
            found.update(read_note(stream / LOCK).lost)
    return {reason: lost for reason, lost in sorted(found.items()) if lost}
