"""A lock-free queue of frames from the event loop to the writer's thread.

Frames are copied into blocks that are reused: allocating memory for each answer would cost the loop more than all else,
as the kernel has to zero the pages.
"""

from collections import deque
from dataclasses import dataclass, field

BLOCK_BYTES = 1 << 18


@dataclass(slots=True)
class FrameBlock:
    """Memory for frames.

    Attributes:
        filled: Bytes and frames in it; the loop sets both at once when a frame is complete.
        taken: Bytes and frames that the thread has taken.
    """

    memory: memoryview
    filled: tuple[int, int] = (0, 0)
    taken: tuple[int, int] = (0, 0)


@dataclass
class BlockPool:
    """The blocks of one worker.

    Attributes:
        most_bytes: Most bytes of all blocks together.
        made_bytes: Bytes of the allocated blocks; only the loop's thread allocates and frees.
    """

    most_bytes: int
    made_bytes: int = 0
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
        """Add a frame; return False if there is no memory for it."""
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
