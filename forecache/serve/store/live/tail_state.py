"""State of the tailer of a live layer: a small file beside the layer, for the status page and alerts."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields

from forecache.serve.store.layout import StoreLayout

_FILE = "tail.json"


@dataclass
class TailState:
    """Figures of a tailer, as of `written_at`. Times are Unix times; 0: never.

    Attributes:
        pid: Process id of the tailer.
        table_id: Id of the stream's table that the layer was filled from.
        applied: Delta version of the table that the layer has applied; the table's own is in the layer's counters.
        caught_up_at: Last time at which the layer had all rows of the table.
        verified_at: Last time at which its content was found equal to the table's.
        unverified_since: Time since which it has content that was not compared with the table; 0: it has none.
        comparing_since: Start of the comparison in progress; 0: there is none.
        compares_all: Whether that comparison reads all rows of the table, as the first one of a process does.
        comparison_s: Duration of the last comparison, whatever its result; 0: none has ended.
        compared_every_s: Seconds from the start of one comparison to that of the next.
        differed: Number of comparisons that found a difference; the layer was filled again each time.
        differed_at: Time of the last difference.
        difference: The last difference, as a sentence.
        gaps: Number of times that entries of the Delta log were missing, so that the table was read instead.
        failing_since: Time since which the tailer fails; 0: it does not.
        failure: The reason, as a sentence.
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

    def record_versions(self, applied: int, *, verified: int, now: float) -> None:
        """Record the Delta versions up to which the layer has applied the table and was found equal to it."""
        self.written_at, self.applied = now, applied
        if verified >= applied:
            self.unverified_since = 0.0
        elif not self.unverified_since:
            self.unverified_since = now


def read_tail_state(layout: StoreLayout) -> TailState:
    """The last state that a tailer wrote; an empty one if none ran here."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads((layout.streamed_folder / _FILE).read_bytes())
        known = {each.name for each in fields(TailState)}
        return TailState(**{name: value for name, value in found.items() if name in known})
    return TailState()


def write_tail_state(layout: StoreLayout, state: TailState) -> None:
    """Replace the state atomically, without a flush: a crash of the machine may lose it, a full disk keeps it."""
    path = layout.streamed_folder / _FILE
    temporary = path.with_name(f".{_FILE}.{os.getpid()}.tmp")
    with suppress(OSError):
        temporary.write_text(json.dumps(asdict(state)))
        os.replace(temporary, path)
