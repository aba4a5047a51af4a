"""Answers judged messages on the driver, and commits rows, bad messages and offsets."""

from collections.abc import Callable, Mapping

import pyarrow as pa

from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.stream.rebuild_state import rebuild_state
from forecache.stream.step.answerer import switch_to_newest
from forecache.stream.step.step import StepResult, StreamStep
from forecache.stream.table.writer import CommitBatch, StreamWriter
from forecache.stream.tiles.restore_tiles import tile_saver

Offsets = Mapping[int, int]


class SparkSink:
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
        done: Callable[[StepResult, int], None],
    ) -> None:
        self.step = StreamStep(settings, stream)
        self.writer = StreamWriter(settings, stream, send_bad=send_bad)
        self._done = done
        switch_to_newest(self.step.answerer)
        self.tiles = tile_saver(settings, stream, self.step.views)
        rebuild_state(settings, stream, self.step, self.tiles)

    @property
    def offsets(self) -> Offsets:
        """The offsets that are committed."""
        return self.writer.offsets

    def process(self, events: pa.Table, bad: pa.Table, upto: Offsets) -> int:
        """Answer judged events and commit them with the offsets after them; returns the Delta version."""
        answered = self.step.answer(events, bad)
        version = self.writer.write(CommitBatch(answered.rows, answered.bad, upto))
        self.step.repeats.confirm_commit(answered.rows, version)
        self.tiles.note_submitted([answered.live])
        self.tiles.confirm_commit(answered.rows, version)
        self.tiles.update()
        self._done(answered, version)
        return version
