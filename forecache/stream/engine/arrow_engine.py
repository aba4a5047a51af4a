"""The engine `arrow`: one thread consumes, judges and answers messages, another one commits the rows.

A batch of messages becomes rows and tiles (`forecache.stream.step`). With the freshness "event" these are visible at
once, in the pending layers. About every `commit_s` the buffered rows are committed together with their offsets.
Messages that were not committed when the process died are read from Kafka again, and give the same rows.
"""

import gc
import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

import pyarrow as pa

from forecache.base.errors import ConflictError, ForecacheError, UnavailableError
from forecache.base.steps import stream_step
from forecache.kit.lease import LeaseLostError
from forecache.kit.process.periodic import Backoff, HandoverThread, PeriodicThread
from forecache.kit.process.wakes import STREAM_FIGURES, STREAM_READ
from forecache.stream.engine.engine import ModelWatch, StreamEngine
from forecache.stream.engine.pending_rows import OrphanedPendingRows, PendingRows
from forecache.stream.engine.restore_state import rebuild_state, tile_saver
from forecache.stream.kafka.client import DeadLetters
from forecache.stream.kafka.consumer import open_topic
from forecache.stream.step import StepResult, StreamStep, switch_to_newest
from forecache.stream.table.schema import KAFKA_AT
from forecache.stream.table.writer import CommitBatch, StreamWriter

_BACKOFF = Backoff(0.5, 10.0)
logger = logging.getLogger("forecache.stream")
_MOST_MESSAGES = 2_000  # messages of a batch
_LINGER_S = {"event": 0.0, "commit": 0.02}
"""Seconds to wait for more messages after the first: the next batch gathers while one is processed, and if answers wait
for a commit anyway, larger batches cost less."""
_MOST_HELD = 256 << 20
"""Bytes of judged rows that are not committed, plus 1 KiB a message; above it, reading waits for the committer."""
_CLOSE_S = 30.0


class BatchCommitter(HandoverThread[CommitBatch]):
    """Commits batches; `done` is called in its thread with each committed batch and its Delta version."""

    def __init__(self, writer: StreamWriter, done: Callable[[CommitBatch, int], None]) -> None:
        self._writer, self._done = writer, done
        super().__init__("forecache-stream-commit")

    def submit(self, work: CommitBatch) -> None:
        """Commit a batch in the thread; only allowed while `is_free`. Raises the error that ended the thread."""
        self.raise_if_failed()
        super().submit(work)

    def raise_if_failed(self) -> None:
        if self.error is not None:
            raise self.error

    def close(self, timeout_s: float | None = None) -> None:
        """End the thread; a batch in progress is still committed if that succeeds within the timeout."""
        self.wait(timeout_s or 0.0)
        super().close(timeout_s)

    def _run(self) -> None:
        try:
            while (given := self._next_batch()) is not None:
                version = self._commit(given)
                if version is None:
                    return
                self._done(given, version)
                self._set_free()
        except BaseException as error:  # noqa: BLE001  # the loop raises it
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def _next_batch(self) -> CommitBatch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._given is not None or self._closing)
            return self._given

    def _commit(self, given: CommitBatch) -> int | None:
        """Commit a batch and return its Delta version; None if the thread was closed before that succeeded."""
        for failures in count(1):
            try:
                version = self._writer.write(given)
                self.failure = ""
                return version
            except ConflictError as error:
                if isinstance(error, LeaseLostError) or not self._has_same_offsets(given):
                    raise
                self._note_failure(error)
            except (UnavailableError, OSError) as error:
                self._note_failure(error)
            if self._pause(_BACKOFF.pause_s(failures)):
                return None
        return None

    def _has_same_offsets(self, given: CommitBatch) -> bool:
        """True if the table still has the offsets at which the batch begins, so that the commit can be repeated."""
        before = dict(self._writer.offsets)
        self._writer.refresh()
        return self._writer.offsets == before

    def _note_failure(self, error: Exception) -> None:
        text = str(error) if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}"
        if text != self.failure:
            logger.error("A batch was not committed, and is tried again: %s", text)
        self.failure = text


class ArrowEngine(StreamEngine):
    name = "arrow"

    def _run(self, held: ExitStack) -> None:
        self._open(held)
        self._ends = self._reader.end_offsets()
        self._write_figures()  # first of all, the lag
        with PeriodicThread(STREAM_FIGURES, self._write_figures, close_s=5.0):
            self._run_loop()
            self._commit_rest()

    def _write_last_figures(self) -> None:
        self._update_end_offsets()
        self._write_figures()

    def _open(self, held: ExitStack) -> None:
        settings, stream = self._settings, self._stream
        self._held: list[StepResult] = []
        self._held_bytes, self._said = 0, ""  # what went wrong since the last commit
        self._confirmed: deque[tuple[CommitBatch, int]] = deque()
        self._step = StreamStep(settings, stream)
        held.callback(self._step.repeats.close)
        switch_to_newest(self._step.answerer)
        letters = DeadLetters(settings, stream.topic.topic)
        self._writer = StreamWriter(settings, stream, send_bad=letters.send, lease=self._lease, shard=self._shard)
        self._reader = open_topic(
            settings,
            stream,
            self._writer,
            skip_lost=self._skip_lost,
            batch=_MOST_MESSAGES,
            linger_s=_LINGER_S[stream.freshness],
        )
        held.callback(self._reader.close)
        self._tiles = tile_saver(settings, stream, self._step.views, shard=self._shard)
        held.callback(self._tiles.close)
        tiles, ids = rebuild_state(settings, stream, self._step, self._tiles, shard=self._shard)
        name = self._shard.name_of(stream.name)
        logger.info("The stream %s goes on: %d rows were read for tiles, %d for ids.", name, tiles, ids)
        self._pending = (PendingRows if stream.freshness == "event" else OrphanedPendingRows)(
            settings, stream, self._writer
        )
        held.callback(self._pending.close)
        if self._skip_lost:
            self._pending.remove_lost_rows()
        self._send_answers(held)
        self._committer = BatchCommitter(self._writer, self._note_commit)
        held.callback(self._committer.close, 0.1)
        self._watch = ModelWatch(self._step.answerer)
        held.callback(self._watch.close)
        self.figures.state.offsets = {str(p): offset for p, offset in self._writer.offsets.items()}
        self.figures.state.committed_version = self._writer.version
        # With the default of 5 ms each call of a commit in the other thread could hold the interpreter for so long.
        sys.setswitchinterval(0.0005)
        # Objects that live as long as the engine need not be scanned at each collection; those of one before may go.
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def _note_failure(self, sentence: str) -> None:
        self._said = sentence

    def _run_loop(self) -> None:
        goal = self._reader.end_offsets()
        self._number, self._began, sweep_at = 1, 0.0, 0.0
        while not self._stop.is_set():
            self._end_if_taken_over()
            self._committer.raise_if_failed()
            if self._watch.switch_to_newer():
                logger.info("The stream %s has taken up what is newer.", self._stream.name)
            messages = self._reader.read(self._wait_s())
            if messages is not None:
                self._process_messages(messages)
            self._confirm_commits()
            self._submit_batch()
            self._tiles.update(holds=bool(self._held))
            if time.monotonic() > sweep_at:
                sweep_at = time.monotonic() + STREAM_FIGURES.every_s
                self._update_end_offsets()
                self._pending.sweep()
            while self._held_bytes > _MOST_HELD and not self._stop.is_set():
                self._committer.wait(0.5)
                self._committer.raise_if_failed()
                self._submit_batch()
            if self._until_caught_up and self._has_reached(goal):
                return

    def _wait_s(self) -> float:
        if not self._held:
            return STREAM_READ.every_s
        return min(STREAM_READ.every_s, max(0.001, self._began + self._stream.commit_s - time.monotonic()))

    def _has_reached(self, goal: dict[int, int]) -> bool:
        return all(self._reader.next[partition] >= offset for partition, offset in goal.items())

    def _process_messages(self, messages: pa.Table) -> None:
        answered = self._step.run(messages)
        stream_step("judged")
        if not self._held:
            self._began = time.monotonic()
        if isinstance(self._pending, PendingRows):
            self._show_pending(self._pending, answered)
            stream_step("pending written")
        self._held.append(answered)
        self._held_bytes += (messages.num_rows << 10) + answered.rows.nbytes + answered.bad.nbytes
        state = self.figures.state
        state.bad += answered.bad.num_rows
        state.repeats += answered.repeats
        state.late += answered.late
        state.unknown += answered.unknown
        if answered.failure:
            self._said = f"{answered.failed} rows have no answer: {answered.failure}"

    def _show_pending(self, pending: PendingRows, answered: StepResult) -> None:
        """Show rows before their commit; while the disk is full, try again."""
        while True:
            try:
                pending.put(self._number, answered, dict(self._reader.next))
                return
            except UnavailableError as error:
                self._said = str(error)
                if self._stop.wait(0.5):
                    raise

    def _submit_batch(self, *, now: bool = False) -> None:
        """Give the buffered batches to the committer once `commit_s` has passed."""
        if not self._held or not self._committer.is_free:
            return
        if not now and time.monotonic() < self._began + self._stream.commit_s:
            return
        rows = pa.concat_tables([each.rows for each in self._held])
        bad = pa.concat_tables([each.bad for each in self._held])
        self._committer.submit(CommitBatch(rows, bad, dict(self._reader.next), number=self._number))
        self._tiles.note_submitted(each.live for each in self._held)
        self._held, self._held_bytes, self._number = [], 0, self._number + 1

    def _note_commit(self, done: CommitBatch, version: int) -> None:
        """Called in the committer's thread."""
        arrived = done.rows[KAFKA_AT].cast(pa.int64()).to_numpy()
        self.figures.count_commit(version, self._writer.offsets, arrived)
        self._confirmed.append((done, version))
        self._said = ""

    def _confirm_commits(self) -> None:
        while self._confirmed:
            done, version = self._confirmed.popleft()
            self._pending.confirm(done.number, version)
            self._step.repeats.confirm_commit(done.rows, version)
            self._tiles.confirm_commit(done.rows, version)
            stream_step("confirmed")

    def _update_end_offsets(self) -> None:
        self._ends = self._reader.end_offsets()
        if not self._held and self._committer.is_free:
            # Transaction markers may follow the last committed message: they are read, and are no lag.
            read = {str(partition): offset for partition, offset in sorted(self._reader.next.items())}
            self.figures.state.offsets = read

    def _write_figures(self) -> None:
        """Write the figures; called in a thread of its own, since a flush may take long."""
        state = self.figures.state
        failing = self._committer.failure or self._reader.failure or self._watch.failure or self._step.problem
        failing = failing or self._tiles.failure
        state.last_error = failing or self._said
        state.release = self._step.answerer.release
        self.figures.write(self._ends, now=True)

    def _commit_rest(self) -> None:
        deadline = time.monotonic() + _CLOSE_S
        while self._held and time.monotonic() < deadline:
            self._committer.raise_if_failed()
            if self._committer.wait(0.5):
                self._submit_batch(now=True)
        self._committer.wait(max(0.0, deadline - time.monotonic()))
        self._committer.raise_if_failed()
        if self._held or not self._committer.is_free:
            raise UnavailableError(
                f"The last rows of the stream {self._stream.name!r} are not committed: {self._committer.failure}",
                remedy="They are read from the topic again when the stream starts.",
            )
        self._confirm_commits()
        self._tiles.finish()
