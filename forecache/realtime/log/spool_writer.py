"""Write logged answers from memory to the spool, in one thread per reader worker; the event loop never waits for it.

An answer costs the loop its encoding and one append to a lock-free queue, of blocks of memory that are reused:
allocating for each answer would cost more than all else, as the kernel has to zero the pages. Rows that find no room in
memory, spool or disk are lost and counted; the answers are sent all the same.
"""

import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from time import monotonic

from forecache.base.settings import Settings
from forecache.kit.process.periodic import RareMessage
from forecache.realtime.log.spool_files import spooled_bytes
from forecache.realtime.log.spool_stream import SpoolStream, frame_head, whole_frames
from forecache.realtime.metrics import LogCounters

BLOCK_BYTES = 1 << 18


@dataclass(slots=True)
class FrameBlock:
    memory: memoryview
    filled: tuple[int, int] = (0, 0)  # bytes and frames in it; the loop sets both at once when a frame is complete
    taken: tuple[int, int] = (0, 0)  # bytes and frames that the thread has taken


@dataclass
class BlockPool:
    most_bytes: int  # most bytes of all blocks together
    made_bytes: int = 0  # bytes of the allocated blocks; only the loop's thread allocates and frees
    free: deque[FrameBlock] = field(default_factory=deque)
    gone: deque[int] = field(default_factory=deque)

    def get(self, size: int) -> FrameBlock | None:
        """Return an empty block for a frame of `size` bytes; None if no memory is left. For the loop's thread."""
        while self.gone:
            self.made_bytes -= self.gone.popleft()
        if size <= BLOCK_BYTES and self.free:
            return self.free.pop()
        size = max(size, BLOCK_BYTES)
        while self.free and self.made_bytes + size > self.most_bytes:
            # Free blocks left by a burst: else a frame larger than a block would never find memory again.
            self.made_bytes -= len(self.free.pop().memory)
        if self.made_bytes + size > self.most_bytes:
            return None
        self.made_bytes += size
        return FrameBlock(memoryview(bytearray(size)))

    def give_back(self, block: FrameBlock) -> None:
        """Return an emptied block to the pool. For the writer's thread."""
        if len(block.memory) > BLOCK_BYTES:
            self.gone.append(len(block.memory))  # made for one large frame
            return
        block.filled = block.taken = (0, 0)
        self.free.append(block)


class FrameQueue:
    """The frames of one model, first in, first out: the loop puts, the thread takes."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._block: FrameBlock | None = None
        self._full: deque[FrameBlock] = deque()

    def put(self, head: bytes, content: bytes) -> bool:
        size = len(head) + len(content)
        block = self._block
        if block is None or block.filled[0] + size > len(block.memory):
            new = self._pool.get(size)
            if new is None:
                return False
            if block is not None:
                self._full.append(block)  # before the new block is visible, so that the order is kept
            block = self._block = new
        at, rows = block.filled
        start = at + len(head)
        block.memory[at:start] = head
        block.memory[start : at + size] = content
        block.filled = (at + size, rows + 1)
        return True

    def take(self) -> tuple[memoryview, int] | None:
        """Return the next frames and their number; None if there are none. They are valid until the next call."""
        while True:
            block = self._full[0] if self._full else self._block
            if block is None:
                return None
            is_full = bool(self._full) and block is self._full[0]
            (start, before), (end, rows) = block.taken, block.filled
            if not is_full and self._full:
                continue  # it was filled up meanwhile
            if end > start:
                block.taken = (end, rows)
                return block.memory[start:end], rows - before
            if not is_full:
                return None
            self._full.popleft()
            self._pool.give_back(block)


logger = logging.getLogger("forecache.realtime")
FLUSH_S = 0.1
"""Time for which answers are gathered before they are written."""
_CLOSE_S = 3.0
_LOOK_EVERY_S = 0.5


class LogChannel:
    """The queue and the spool stream of one model's answers.

    `add` is called on the event loop's thread, all else on the writer's.
    """

    def __init__(self, writer: "LogWriter", name: str, counters: LogCounters) -> None:
        self._writer, self.name, self.counters = writer, name, counters
        self._queue = FrameQueue(writer.pool)
        self._number = 0
        self._written = 0
        self._stream: SpoolStream | None = None
        # Losses of earlier workers of the slot are recorded already, except for rows that the last had in memory.
        self._told_before, self._noted = counters.losses_by_reason(), counters.losses_by_reason()
        counters.count_abandoned_rows()

    def add(self, content: bytes) -> None:
        """Queue an encoded answer, or count it as lost if no memory is left."""
        writer = self._writer
        if not self._queue.put(frame_head(content, self._number), content):
            self.counters.add("lost_memory")
            writer.wake_writer()
            return
        self._number += 1
        self.counters.add("accepted")
        if not writer.is_awake:
            writer.is_awake = True
            writer.wake.set()

    def flush(self) -> None:
        while (taken := self._queue.take()) is not None:
            frames, rows = taken
            room = self._writer.free_bytes()
            fit, size = (rows, len(frames)) if len(frames) <= room else whole_frames(frames, room)
            kept = 0
            try:
                kept = self._write(frames[:size], fit, self._written)
            finally:
                self._written += rows
                self._writer.used += size
                self.counters.add("spooled", kept)
                self.counters.add("lost_disk", fit - kept)
                self.counters.add("lost_spool", rows - fit)
            if fit < rows and self._stream is not None:
                self._stream.close_segment()  # the numbers of later frames do not follow those in it
            if self._stream is not None:
                self._stream.close_due_segment()
        if self._stream is not None:
            self._stream.close_due_segment()
            lost = self.counters.losses_by_reason()
            if lost != self._noted:
                self._noted = lost
                self._stream.write_losses({each: count - self._told_before[each] for each, count in lost.items()})

    def _write(self, frames: memoryview, rows: int, first: int) -> int:
        if not rows:
            return 0
        try:
            if self._stream is None:
                self._stream = self._writer.open_stream(self.name)
            kept = self._stream.write(frames, rows, first)
            if kept < rows:
                self._writer.log_failure(self.name, self._stream.failure)
            return kept
        except OSError as error:
            self._writer.log_failure(self.name, error)
            return 0

    @property
    def is_open(self) -> bool:
        return self._stream is not None and self._stream.is_open

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


class LogWriter:
    """The thread of one worker, and the memory that it empties.

    Args:
        replica: host:port#worker, for the log's rows.

    Attributes:
        used: Estimated bytes in the spool.
        is_awake: True if the thread was woken and has not yet begun to write.
    """

    def __init__(self, settings: Settings, *, replica: str) -> None:
        self._spool, self._replica = settings.request_log_path, replica
        self._most_spooled, self._delay_s = settings.request_log_spool_bytes, settings.request_log_delay_s
        self.pool = BlockPool(settings.request_log_memory_bytes)
        self.used = 0
        self.wake, self.is_awake = threading.Event(), False
        self._channels: dict[str, LogChannel] = {}
        self._is_closing = False
        self._looked, self._failures = float("-inf"), RareMessage()
        self.thread: threading.Thread | None = None

    def channel(self, name: str, counters: LogCounters) -> LogChannel:
        """Return the channel of a model; the first one starts the thread."""
        channel = self._channels.get(name)
        if channel is None:
            channel = LogChannel(self, name, counters)
            self._channels = {**self._channels, name: channel}
        if self.thread is None:
            self._start()
        return channel

    def wake_writer(self) -> None:
        """Have the thread write at once, because no memory is left; a dead thread is replaced."""
        if self.thread is not None and not self.thread.is_alive() and not self._is_closing:
            self._start()
        self.wake.set()

    def _start(self) -> None:
        self.thread = threading.Thread(target=self._run, name="forecache-request-log", daemon=True)
        self.thread.start()

    def open_stream(self, name: str) -> SpoolStream:
        """Open a stream for a model; raises OSError."""
        return SpoolStream(self._spool / name, replica=self._replica, most_age_s=self._delay_s / 2)

    def log_failure(self, name: str, error: BaseException | None) -> None:
        """Log why answers are lost, at most once in ten seconds."""
        if self._failures.is_due():
            logger.error("Answers of %s are not logged: %s", name, error)

    def close(self) -> None:
        """Write the queued answers and end the thread, without waiting for a hung disk."""
        self._is_closing = True
        self.wake.set()
        if self.thread is not None:
            self.thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._is_closing:
            has_open = any(channel.is_open for channel in self._channels.values())
            self.wake.wait(self._delay_s / 4 if has_open else None)
            if not self._is_closing:
                # Not `time.sleep`, so that closing need not wait.
                self.wake.clear()
                self.wake.wait(FLUSH_S)
            self.wake.clear()
            self.is_awake = False
            self._flush()
        self._flush()
        for channel in self._channels.values():
            channel.close()

    def _flush(self) -> None:
        for channel in self._channels.values():
            try:
                channel.flush()
            except Exception as error:  # noqa: BLE001  # the thread must go on for later answers
                self.log_failure(channel.name, error)

    def free_bytes(self) -> int:
        now = monotonic()
        if now - self._looked >= _LOOK_EVERY_S:
            self._looked = now
            try:
                self.used = spooled_bytes(self._spool)
            except OSError as error:
                self.log_failure("all models", error)
        return self._most_spooled - self.used
