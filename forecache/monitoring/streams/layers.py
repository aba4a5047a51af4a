"""How far the live layers of a stream are, from their counters and from what their tailers say of themselves."""

from dataclasses import dataclass

from forecache.pipeline import Stream
from forecache.settings import Settings
from forecache.store.layout import Layout
from forecache.store.live.state import APPLIED, ENTRIES, LOOKED_AT_US, VERIFIED, of_this_boot, read_cells
from forecache.store.live.tail_state import read_tail_state

VERIFIED_WITHIN_S = 300.0
"""Of a layer whose comparisons with the table take some seconds: a tailer compares it every minute."""
MOST_VERIFIED_WITHIN_S = 86_400.0
"""However long a comparison takes."""


@dataclass(frozen=True)
class LayerNow:
    """A live layer on this machine. Times are Unix times; 0: never.

    Attributes:
        store: Name of the view, pipeline or stream whose store it is beside.
        rows: In it.
        applied: Version of the stream's table that it holds; -1: none yet.
        verified_through: Version at which it was last found equal to the table; -1: never.
        looked_at: When the tailer last looked at the table.
        verified_at: When it was last found equal.
        unverified_since: Since when it has had content that was not compared yet; 0: it has none.
        comparing_since: When the comparison began that is under way; 0: none is.
        compares_all: Whether that one reads all rows of the table.
        comparison_s: Seconds that the last comparison took; 0: none has ended.
        compared_every_s: Seconds from the beginning of one comparison to that of the next.
        differed: How often it was not, and was made anew.
        failure: Why the tailer cannot go on; "" while it can.
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

    def compared_for_s(self, at: float) -> float:
        """Seconds that a comparison takes: the last one, or so far one that reads all rows or has none before it."""
        if self.comparing_since and (self.compares_all or not self.comparison_s):
            return max(self.comparison_s, at - self.comparing_since)
        return self.comparison_s

    def verified_within_s(self, at: float) -> float:
        """Seconds within which new content has to be found equal to the table.

        That is the time for two comparisons and the pauses before them, so that one may fail or take twice as long.
        """
        needed_s = 2 * (self.compared_every_s + self.compared_for_s(at))
        return min(max(VERIFIED_WITHIN_S, needed_s), MOST_VERIFIED_WITHIN_S)

    def verified_until(self, at: float) -> float | None:
        """When it counts as not verified, as seen at a moment; None where all of its content was compared."""
        return self.unverified_since + self.verified_within_s(at) if self.unverified_since else None


def layers_now(settings: Settings, stream: Stream) -> tuple[LayerNow, ...]:
    """The live layers that a stream feeds, as far as their tailers are on this machine."""
    return tuple(layer_now(settings, name) for name in stream.live_names)


def layer_now(settings: Settings, store: str) -> LayerNow:
    """The live layer beside a store, as far as its tailer is on this machine."""
    layout = Layout(settings.store_path / store)
    cells, said = read_cells(layout.streamed / "live.state"), read_tail_state(layout)
    failure = said.failure if said.failing_since else ""
    if cells is None or not of_this_boot(cells):
        return LayerNow(store, differed=said.differed, failure=failure)
    rows, applied, verified = int(cells[ENTRIES]), int(cells[APPLIED]), int(cells[VERIFIED])
    looked_at = max(0, cells[LOOKED_AT_US]) / 1e6
    return LayerNow(
        store, rows, applied, verified, looked_at, said.verified_at, said.differed, failure,
        said.unverified_since, said.comparing_since, said.compares_all, said.comparison_s, said.compared_every_s,
    )  # fmt: skip
