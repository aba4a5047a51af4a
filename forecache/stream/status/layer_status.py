"""The status of a stream's live layers, from their counters and their tailers' state files."""

from dataclasses import dataclass

from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.counters import APPLIED, ENTRIES, LOOKED_AT_US, VERIFIED, is_of_this_boot, read_cells
from forecache.serve.store.live.layer import read_tail_state

VERIFIED_WITHIN_S = 300.0
"""Limit for a layer whose comparisons with the table take some seconds: the tailer makes one every minute."""
MOST_VERIFIED_WITHIN_S = 86_400.0
"""Largest limit, however long a comparison takes."""


@dataclass(frozen=True)
class LayerStatus:
    """A live layer on this machine. Times are Unix times; 0: never.

    Attributes:
        store: Name of the view, pipeline or stream whose store has the layer.
        rows: Number of its rows.
        applied: Version of the stream's table up to which commits are applied; -1: none yet.
        verified_through: Version at which it was last found equal to the table; -1: never.
        looked_at: When the tailer last looked at the table.
        verified_at: When it was last found equal.
        unverified_since: Since when it has had content that was not compared yet; 0: it has none.
        comparing_since: When the comparison in progress began; 0: there is none.
        compares_all: True if that one reads all rows of the table.
        comparison_s: Seconds that the last comparison took; 0: none has ended.
        compared_every_s: Seconds from the start of one comparison to that of the next.
        differed: How often it differed from the table, and was rebuilt.
        failure: Why the tailer cannot continue; "" while it can.
    """

    store: str
    rows: int = 0
    applied: int = -1
    verified_through: int = -1
    looked_at: float = 0.0
    verified_at: float = 0.0
    differed: int = 0
    failure: str = ""
    unverified_since: float = 0.0
    comparing_since: float = 0.0
    compares_all: bool = False
    comparison_s: float = 0.0
    compared_every_s: float = 0.0

    def comparison_duration_s(self, at: float) -> float:
        """Return the seconds of the last comparison, or so far of one that is the first or reads all rows."""
        if self.comparing_since and (self.compares_all or not self.comparison_s):
            return max(self.comparison_s, at - self.comparing_since)
        return self.comparison_s

    def verification_limit_s(self, at: float) -> float:
        """Return the seconds within which new content has to be verified.

        That is the time for two comparisons and the pauses before them, so that one may fail or take twice as long.
        """
        needed_s = 2 * (self.compared_every_s + self.comparison_duration_s(at))
        return min(max(VERIFIED_WITHIN_S, needed_s), MOST_VERIFIED_WITHIN_S)

    def verification_deadline(self, at: float) -> float | None:
        """Return the time from which on it counts as not verified, seen at `at`; None if all content was compared."""
        return self.unverified_since + self.verification_limit_s(at) if self.unverified_since else None


def read_layer_statuses(settings: Settings, stream: Stream) -> tuple[LayerStatus, ...]:
    """Read the status of a stream's live layers; layers that no tailer of this machine fills have defaults."""
    return tuple(read_layer_status(settings, name) for name in stream.live_names)


def read_layer_status(settings: Settings, store: str) -> LayerStatus:
    """Read the status of a store's live layer; defaults if no tailer of this machine fills it."""
    layout = StoreLayout(settings.store_path / store)
    cells, said = read_cells(layout.streamed_folder / "live.state"), read_tail_state(layout)
    failure = said.failure if said.failing_since else ""
    if cells is None or not is_of_this_boot(cells):
        return LayerStatus(store, differed=said.differed, failure=failure)
    rows, applied, verified = int(cells[ENTRIES]), int(cells[APPLIED]), int(cells[VERIFIED])
    looked_at = max(0, cells[LOOKED_AT_US]) / 1e6
    return LayerStatus(
        store, rows, applied, verified, looked_at, said.verified_at, said.differed, failure,
        said.unverified_since, said.comparing_since, said.compares_all, said.comparison_s, said.compared_every_s,
    )  # fmt: skip
