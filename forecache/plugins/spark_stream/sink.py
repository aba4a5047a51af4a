"""Processes Spark's batches on the driver: drops the events that the table has, answers and commits the others."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.base.steps import stream_step
from forecache.declare import Stream
from forecache.kit.lease import Lease
from forecache.plugins.spark_stream.checkpoint import Checkpoint, Offsets, find_offset_beyond
from forecache.plugins.spark_stream.source import split_judged
from forecache.stream.engine.restore_state import rebuild_state, tile_saver
from forecache.stream.step import StepResult, StreamStep, switch_to_newest
from forecache.stream.table.schema import OFFSET, PARTITION
from forecache.stream.table.writer import CommitBatch, StreamWriter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class SparkSink:
    """Answers and commits batch by batch; its tiles have to be finished or closed.

    `send_bad` is called with bad messages before they are quarantined, `done` with each result and the Delta version.
    """

    def __init__(
        self,
        settings: Settings,
        stream: Stream,
        *,
        send_bad: Callable[[pa.Table], None],
        done: Callable[[StepResult, int], None],
        lease: Lease | None = None,
    ) -> None:
        self.step = StreamStep(settings, stream)
        self.writer = StreamWriter(settings, stream, send_bad=send_bad, lease=lease)
        self._done = done
        switch_to_newest(self.step.answerer)
        self.tiles = tile_saver(settings, stream, self.step.views)
        rebuild_state(settings, stream, self.step, self.tiles)

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


class CheckpointAheadError(ForecacheError):
    """A batch starts beyond the offsets of the table: the events between would be lost."""


class BatchHandler:
    """The function for Spark's `foreachBatch`; `before` is called before each batch.

    `failure` is the exception that a batch raised (Spark reports it only as text), `done` the number of finished
    batches. `starts` has by partition the next offset, also of partitions that are new to the table.
    """

    def __init__(
        self, sink: SparkSink, checkpoint: Checkpoint, starts: Offsets, *, before: Callable[[], object] = lambda: None
    ) -> None:
        self.failure: BaseException | None = None
        self.done = 0
        self._sink, self._checkpoint, self._before = sink, checkpoint, before
        self._reached = dict(starts)
        self._busy, self._closed = threading.Lock(), False

    def close(self) -> None:
        """Wait until the batch in progress is done, and accept no other."""
        with self._busy:
            self._closed = True

    def finish(self) -> None:
        """Complete the file of tiles; called after `close` if no batch has failed."""
        self._sink.tiles.finish()

    def __call__(self, judged: "DataFrame", batch: int) -> None:
        with self._busy:
            if self._closed:
                raise RuntimeError("The stream is about to stop.")
            try:
                self._process(judged, batch)
                self.done += 1
            except BaseException as error:
                self.failure = error
                raise

    def has_reached(self, goal: Offsets) -> bool:
        """True if all events before these offsets are committed."""
        reached = self.offsets()
        return all(reached.get(partition, 0) >= offset for partition, offset in goal.items())

    def offsets(self) -> dict[int, int]:
        """Return by partition the larger one of the table's offset and the one that the last batch reached.

        The latter is larger if a transaction marker, which is no event, follows the last event.
        """
        known, reached = dict(self._sink.writer.offsets), dict(self._reached)
        return {p: max(known.get(p, 0), reached.get(p, 0)) for p in known.keys() | reached.keys()}

    def _process(self, judged: "DataFrame", batch: int) -> None:
        span, committed = self._checkpoint.offsets_of_batch(batch), self.offsets()
        if ahead := find_offset_beyond(span.start, committed):
            partition, offset, known = ahead
            raise CheckpointAheadError(
                f"Batch {batch} starts partition {partition} at offset {offset}, and the table has the events before "
                f"{known} only."
            )
        upto = {**committed, **{p: max(offset, committed.get(p, 0)) for p, offset in span.end.items()}}
        if upto != committed:
            rows = without_committed(judged.toArrow(), committed)
            stream_step("judged")
            self._before()
            self._sink.process(*split_judged(rows, self._sink.step.judge), upto)
        self._reached = upto


def without_committed(rows: pa.Table, committed: Offsets) -> pa.Table:
    keep = pa.array([True] * rows.num_rows, pa.bool_())
    for partition, offset in committed.items():
        there = pc.and_(pc.equal(rows[PARTITION], partition), pc.less(rows[OFFSET], offset))
        keep = pc.and_not(keep, there)
    return rows.filter(keep)
