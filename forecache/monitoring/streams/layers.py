"""How far the live layers of a stream are, from their counters and from what their tailers say of themselves."""

from dataclasses import dataclass

from forecache.pipeline import Stream
from forecache.settings import Settings
from forecache.store.layout import Layout
from forecache.store.live.state import APPLIED, ENTRIES, LOOKED_AT_US, VERIFIED, of_this_boot, read_cells
from forecache.store.live.tail_state import read_tail_state


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


def layers_now(settings: Settings, stream: Stream) -> tuple[LayerNow, ...]:
    """The live layers that a stream feeds, as far as their tailers are on this machine."""
    return tuple(_layer(settings, name) for name in stream.live_names)


def _layer(settings: Settings, store: str) -> LayerNow:
    layout = Layout(settings.store_path / store)
    cells, said = read_cells(layout.streamed / "live.state"), read_tail_state(layout)
    failure = said.failure if said.failing_since else ""
    if cells is None or not of_this_boot(cells):
        return LayerNow(store, differed=said.differed, failure=failure)
    rows, applied, verified = int(cells[ENTRIES]), int(cells[APPLIED]), int(cells[VERIFIED])
    looked_at = max(0, cells[LOOKED_AT_US]) / 1e6
    return LayerNow(store, rows, applied, verified, looked_at, said.verified_at, said.differed, failure)
