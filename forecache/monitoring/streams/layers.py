"""How far the live layers of a stream are, from their counters alone."""

from dataclasses import dataclass

from forecache.pipeline import Stream
from forecache.settings import Settings
from forecache.store.layout import Layout
from forecache.store.live.state import (
    APPLIED,
    ENTRIES,
    LOOKED_AT_US,
    VERIFIED,
    VERIFIED_AT_US,
    of_this_boot,
    read_cells,
)


@dataclass(frozen=True)
class LayerNow:
    """A live layer on this machine. Times are Unix times; 0: never.

    Attributes:
        store: Name of the view, pipeline or stream whose store it is beside.
        rows: In it.
        applied: Version of the stream's table that it holds; -1: none yet.
        verified_through: Version at which it was last found equal to the table; -1: never.
        looked_at: When the tailer last looked at the table.
        verified_at: When that was.
    """

    store: str
    rows: int = 0
    applied: int = -1
    verified_through: int = -1
    looked_at: float = 0.0
    verified_at: float = 0.0


def layers_now(settings: Settings, stream: Stream) -> tuple[LayerNow, ...]:
    """The live layers that a stream feeds, as far as their tailers are on this machine."""
    return tuple(_layer(settings, name) for name in stream.live_names)


def _layer(settings: Settings, store: str) -> LayerNow:
    cells = read_cells(Layout(settings.store_path / store).streamed / "live.state")
    if cells is None or not of_this_boot(cells):
        return LayerNow(store)
    return LayerNow(
        store, int(cells[ENTRIES]), int(cells[APPLIED]), int(cells[VERIFIED]),
        max(0, cells[LOOKED_AT_US]) / 1e6, max(0, cells[VERIFIED_AT_US]) / 1e6,
    )  # fmt: skip
