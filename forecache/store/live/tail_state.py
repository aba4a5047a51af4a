"""What the tailer of a live layer says of itself: a small file beside the layer, for the status page and alerts."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields

from forecache.store.layout import Layout

_FILE = "tail.json"


@dataclass
class TailState:
    """Figures of a tailer, as of `written_at`. Times are Unix times; 0: never.

    Attributes:
        pid: Of the process.
        table_id: Of the stream's table that the layer was filled from.
        applied: Delta version of the table that the layer has; what the table has is in the layer's counters.
        caught_up_at: When the layer last had everything that the table had.
        verified_at: When its content was last found equal to the table's.
        unverified_since: Since when it has had content that was not compared with the table yet; 0: it has none.
        comparing_since: When the comparison began that is under way; 0: none is.
        compares_all: Whether that one reads all rows of the table, as the first one of a process does.
        comparison_s: Seconds that the last comparison took, whatever it found; 0: none has ended.
        compared_every_s: Seconds from the beginning of one comparison to that of the next.
        differed: How often it was not; the layer was made anew each time.
        differed_at: When that was last.
        difference: What differed then, as a sentence.
        gaps: How often entries of the table's log were gone, so that the rows were read from the table instead.
        failing_since: Since when the tailer has not been able to go on; 0: it is able to.
        failure: Why, as a sentence.
    """

    pid: int = 0
    written_at: float = 0.0
    table_id: str = ""
    applied: int = -1
    caught_up_at: float = 0.0
    verified_at: float = 0.0
    unverified_since: float = 0.0
    comparing_since: float = 0.0
    compares_all: bool = False
    comparison_s: float = 0.0
    compared_every_s: float = 0.0
    differed: int = 0
    differed_at: float = 0.0
    difference: str = ""
    gaps: int = 0
    failing_since: float = 0.0
    failure: str = ""

    def note(self, applied: int, *, verified: int, now: float) -> None:
        """Take the Delta versions up to which the layer has the table, and up to which it was found equal to it."""
        self.written_at, self.applied = now, applied
        if verified >= applied:
            self.unverified_since = 0.0
        elif not self.unverified_since:
            self.unverified_since = now


def read_tail_state(layout: Layout) -> TailState:
    """What a tailer said last; nothing where none ran here."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads((layout.streamed / _FILE).read_bytes())
        known = {each.name for each in fields(TailState)}
        return TailState(**{name: value for name, value in found.items() if name in known})
    return TailState()


def write_tail_state(layout: Layout, state: TailState) -> None:
    """Replace it in one step, without a flush: a crash of the machine may take it. On a full disk the old one stays."""
    path = layout.streamed / _FILE
    temporary = path.with_name(f".{_FILE}.{os.getpid()}.tmp")
    with suppress(OSError):
        temporary.write_text(json.dumps(asdict(state)))
        os.replace(temporary, path)
