"""The order of an epoch's rows: a function of seed and epoch, independent of the number of workers."""

from collections.abc import Iterator

import numpy as np
import torch

from forecache.plugins.torch.worker.reading.split import Chunk, TableSplit


class EpochOrder:
    """The sample order of the epochs of a split; see `forecache.plugins.torch.worker.reading`.

    Args:
        batch_rows: Rows of a step over all ranks; steps, the last one included, differ by a few rows at most.
        shuffle_rows: Rows over all lanes that are shuffled together; 0 keeps the table's order (evaluation).
    """

    def __init__(self, split: TableSplit, *, seed: int, batch_rows: int, lanes: int, shuffle_rows: int) -> None:
        self.split, self.seed, self.lanes = split, seed, lanes
        self.num_steps = max(1, -(-split.rows // batch_rows))
        self.shuffle = shuffle_rows > 0
        self.window_rows = max(1, (shuffle_rows or 4 * batch_rows) // lanes)

    @property
    def fingerprint(self) -> str:
        return f"{self.split.fingerprint}/{self.seed}/{self.num_steps}/{self.lanes}/{self.window_rows}"

    def lane_bounds(self, lane: int) -> tuple[int, int]:
        """Rows [start, stop) of the epoch's row sequence that make the lane."""
        return lane * self.split.rows // self.lanes, (lane + 1) * self.split.rows // self.lanes

    def lane_offset(self, lane: int, step: int) -> int:
        """Rows of the lane that the steps before `step` take."""
        start, stop = self.lane_bounds(lane)
        return step * (stop - start) // self.num_steps

    def step_rows(self, step: int) -> int:
        """Rows of a step over all ranks."""
        return sum(self.lane_offset(lane, step + 1) - self.lane_offset(lane, step) for lane in range(self.lanes))

    def chunk_order(self, epoch: int) -> list[Chunk]:
        chunks = self.split.chunks
        if not self.shuffle:
            return list(chunks)
        return [chunks[i] for i in _generator(self.seed, epoch).permutation(len(chunks))]

    def num_windows(self, lane: int) -> int:
        start, stop = self.lane_bounds(lane)
        return -(-(stop - start) // self.window_rows)

    def windows(self, epoch: int, lane: int, first: int) -> Iterator[torch.Tensor]:
        """The shuffled windows of a lane from the `first` on, float32 [n, width]; files are read forward."""
        start, stop = self.lane_bounds(lane)
        start += first * self.window_rows
        source = self._rows(epoch, start, stop)
        left = np.empty((0, self.split.width), dtype=np.float32)
        for window in range(first, self.num_windows(lane)):
            rows = np.empty((min(self.window_rows, stop - start), left.shape[1]), dtype=np.float32)
            filled = 0
            while filled < len(rows):
                if not len(left):
                    left = next(source)
                taken = left[: len(rows) - filled]
                rows[filled : filled + len(taken)] = taken
                filled, left = filled + len(taken), left[len(taken) :]
            start += len(rows)
            if self.shuffle:
                rows = rows[_generator(self.seed, epoch, lane, window).permutation(len(rows))]
            yield torch.from_numpy(rows)

    def _rows(self, epoch: int, start: int, stop: int) -> Iterator[np.ndarray]:
        before = 0
        for chunk in self.chunk_order(epoch):
            after = before + chunk.rows
            if after > start and before < stop:
                yield from self.split.read(chunk, max(0, start - before), min(chunk.rows, stop - before))
            before = after


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
