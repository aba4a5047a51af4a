"""Counters of the path to one release's model: worker processes, circuit breaker, cache, remote reads.

The cells may be in shared memory.
"""

CAUSES = ("crashed", "hung", "stopped", "memory", "start")
"""Reasons why a process was replaced."""
BATCHES = (1, 2, 4, 8, 16, 32)
"""Upper bounds of the histogram of batch sizes, in requests; a last one counts all larger ones."""

CELLS = (
    "started",
    "templates_started",
    "template_failures",
    *(f"replaced_{cause}" for cause in CAUSES),
    "processes",
    "abandoned",
    "requeued",
    *(f"batches_{bound}" for bound in (*BATCHES, "more")),
    "batched_requests",
    "breaker_open",
    "breaker_opened",
    "breaker_refused",
    "cache_hits",
    "cache_joined",
    "cache_misses",
    "cache_bytes",
    "cache_saved_us",
    "hedged_reads",
    "hedges_won",
    "late_reads",
)
GAUGES = ("breaker_open", "cache_bytes", "processes")
_PLACE = {name: place for place, name in enumerate(CELLS)}
_STARTED, _REPLACED = _PLACE["started"], _PLACE[f"replaced_{CAUSES[0]}"]
_BATCHES, _BATCHED = _PLACE["batches_1"], _PLACE["batched_requests"]


class PathCounters:
    """
    Args:
        cells: Of `len(CELLS)`, in their order, written by this process alone; None: memory of its own.
    """

    def __init__(self, cells: memoryview | list[int] | None = None) -> None:
        self.cells: memoryview | list[int] = [0] * len(CELLS) if cells is None else cells

    def add(self, name: str, number: int = 1) -> None:
        """Add to a counter or a gauge; the paths of two releases may share a gauge for a moment."""
        self.cells[_PLACE[name]] += number

    def get(self, name: str) -> int:
        return self.cells[_PLACE[name]]

    def count_start(self) -> None:
        self.cells[_STARTED] += 1

    def count_replacement(self, cause: str) -> None:
        """Count a replaced process by its cause, one of `CAUSES`."""
        self.cells[_REPLACED + CAUSES.index(cause)] += 1

    def count_batch(self, requests: int) -> None:
        """Count one call of a model with a batch of this many requests."""
        place = next((place for place, bound in enumerate(BATCHES) if requests <= bound), len(BATCHES))
        self.cells[_BATCHES + place] += 1
        self.cells[_BATCHED] += requests
