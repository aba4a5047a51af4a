"""Answers judged messages on the driver, and commits rows, bad messages and offsets."""

from collections.abc import Callable, Mapping

import pyarrow as pa

from forecache.pipeline import Stream
from forecache.settings import Settings
from forecache.stream.rebuild import rebuild
from forecache.stream.step.answered import Answered
from forecache.stream.step.answers import take_up_newest
from forecache.stream.step.step import Step
from forecache.stream.table.writer import Batch, StreamWriter
from forecache.stream.tiles.restore import tile_saver

Offsets = Mapping[int, int]


class Sink:
    """Answers and commits batch by batch.

    Attributes:
        step: The step that answers; its answerer has a release or model.
        writer: The writer that commits.
        tiles: The saver of the tiles; it has to be finished or closed.

    Args:
        send_bad: Called with bad messages before they are quarantined.
        done: Called with each result and the Delta version of its commit.
    """

    def __init__(
        self,
        settings: Settings,
        stream: Stream,
        *,
        send_bad: Callable[[pa.Table], None],
        done: Callable[[Answered, int], None],
    ) -> None:
        self.step = Step(settings, stream)
        self.writer = StreamWriter(settings, stream, send_bad=send_bad)
        self._done = done
        take_up_newest(self.step.answerer)
        self.tiles = tile_saver(settings, stream, self.step.views)
        rebuild(settings, stream, self.step, self.tiles)

    @property
    def offsets(self) -> Offsets:
        """The offsets that are committed."""
        return self.writer.offsets

    def take(self, events: pa.Table, bad: pa.Table, upto: Offsets) -> int:
        """Answer judged events and commit them with the offsets after them; returns the Delta version."""
        answered = self.step.answer(events, bad)
        version = self.writer.write(Batch(answered.rows, answered.bad, upto))
        self.step.repeats.committed(answered.rows, version)
        self.tiles.handed_over([answered.live])
        self.tiles.confirmed(answered.rows, version)
        self.tiles.look()
        self._done(answered, version)
        return version
