"""The rows of each step of a rank, read ahead from a pinned version of the training set, in an order that depends on
the seed and the epoch alone.

The row groups that hold rows of the split are permuted by (seed, epoch) and laid end to end; that sequence is cut into
`lanes` equal streams; each lane is shuffled within consecutive windows of a bounded number of rows; step k of
`num_steps` takes an equal share of every lane. A worker reads only its lanes (lane i belongs to rank i modulo the world
size), so the rows of a step are the same for any number of workers, every row comes exactly once an epoch, and a
position is just (epoch, step).
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import torch
import xxhash
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow import compute as pc
from pyarrow import fs
from pyarrow import parquet as pq

from forecache.base.errors import InputError
from forecache.lake.split_rows import label_numbers
from forecache.models.inference.encoding import MatrixEncoding

SPLIT = "split"
_BATCH_ROWS = 1 << 14
# Per column and open lane. Without it Arrow reads whole columns of a row group, whose size the table's writer chose.
_LOCAL_BUFFER_BYTES, _REMOTE_BUFFER_BYTES = 1 << 17, 1 << 20


@dataclass(frozen=True)
class Chunk:
    """One row group of one file, and the number of its rows that belong to the split."""

    path: str
    row_group: int
    rows: int
    whole: bool


class TableSplit:
    """Reads and decodes the rows of one or several splits of a training table at a Delta version; InputError without a
    row or a column.

    Classes of a label are numbered in their order. If all rows fit in `cache_bytes`, each row group is decoded once and
    kept.
    """

    def __init__(
        self,
        table: DeltaTable,
        *splits: str,
        features: tuple[str, ...],
        label: str,
        classes: tuple[str, ...] = (),
        weight: str = "",
        cache_bytes: int = 0,
        encoding: MatrixEncoding | None = None,
    ) -> None:
        self.splits, self.features, self.label, self.classes = splits, features, label, classes
        self._encoding = None if encoding is None or encoding.is_plain else encoding
        self._labels = (label, weight) if weight else (label,)
        self._files = _file_system(table)
        _require_columns(table, (*features, *self._labels))
        self.chunks = tuple(_chunks(table, self._files, splits))
        self.rows = sum(chunk.rows for chunk in self.chunks)
        if not self.rows:
            named = " or ".join(map(repr, splits))
            raise InputError(
                f"The split {named} of {table.table_uri} has no row at version {table.version()}.",
                remedy="Build the training set for an as-of date with enough history.",
            )
        cached = self.rows * 4 * self.width <= cache_bytes
        self._cache: dict[Chunk, np.ndarray] | None = {} if cached else None

    @property
    def num_labels(self) -> int:
        """1, or 2 if rows have a weight."""
        return len(self._labels)

    @property
    def width(self) -> int:
        """Numbers of a row: the features, the label and its weight."""
        return self.num_features + self.num_labels

    @property
    def num_features(self) -> int:
        return self._encoding.width if self._encoding else len(self.features)

    @property
    def fingerprint(self) -> str:
        """Hash of the chunks; a position is valid only for the same chunks."""
        text = "\n".join(f"{chunk.path} {chunk.row_group} {chunk.rows}" for chunk in self.chunks)
        return xxhash.xxh3_64_hexdigest(text.encode())

    def read(self, chunk: Chunk, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Rows [start, stop) of the chunk's rows in this split, as float32 [n, width], the labels last."""
        stop = chunk.rows if stop is None else stop
        if self._cache is not None:
            if chunk not in self._cache:
                self._cache[chunk] = np.concatenate(list(self._decode(chunk, 0, chunk.rows)))
            yield self._cache[chunk][start:stop]
        else:
            yield from self._decode(chunk, start, stop)

    def _decode(self, chunk: Chunk, start: int, stop: int) -> Iterator[np.ndarray]:
        columns = [*self.features, *self._labels] + ([] if chunk.whole else [SPLIT])
        local = isinstance(self._files, fs.SubTreeFileSystem)
        buffer_bytes = _LOCAL_BUFFER_BYTES if local else _REMOTE_BUFFER_BYTES
        done = 0
        with self._files.open_input_file(chunk.path) as file:
            batches = pq.ParquetFile(file, buffer_size=buffer_bytes, pre_buffer=False).iter_batches(
                _BATCH_ROWS, row_groups=[chunk.row_group], columns=columns, use_threads=False
            )
            for batch in batches:
                mine = None if chunk.whole else _is_in(batch.column(SPLIT), self.splits)
                rows = batch.num_rows if mine is None else pc.sum(mine).as_py() or 0
                first, last = max(0, start - done), min(rows, stop - done)
                done += rows
                if first < last:  # skipping rows before `start` takes a tenth of converting them
                    wanted = batch if mine is None else batch.filter(mine)
                    yield self._matrix(wanted.slice(first, last - first), chunk)
                if done >= stop:
                    return

    def _matrix(self, batch: pa.RecordBatch, chunk: Chunk) -> np.ndarray:
        if batch.column(self.label).null_count:
            raise InputError(
                f"The label {self.label!r} is null in {batch.column(self.label).null_count} rows of {chunk.path}.",
                remedy="The label's function must leave out entities without a value: build the training set again.",
            )
        matrix = np.empty((batch.num_rows, self.width), dtype=np.float32)
        if self._encoding is None:
            for position, column in enumerate(self.features):
                matrix[:, position] = batch.column(column).to_numpy(zero_copy_only=False)
        else:
            matrix[:, : self.num_features] = self._encoding.matrix([batch.column(name) for name in self.features])
        matrix[:, self.num_features] = label_numbers(batch.column(self.label), self.classes)
        for position, column in enumerate(self._labels[1:], self.num_features + 1):
            matrix[:, position] = batch.column(column).to_numpy(zero_copy_only=False)
        return matrix


def _file_system(table: DeltaTable) -> fs.FileSystem:
    uri = unquote(table.table_uri.removeprefix("file://"))
    if "://" not in uri:
        return fs.SubTreeFileSystem(uri, fs.LocalFileSystem())  # Python's file objects would cost a third of the speed
    return fs.PyFileSystem(DeltaStorageHandler.from_table(table._table))


def _require_columns(table: DeltaTable, wanted: tuple[str, ...]) -> None:
    present = {field.name for field in table.schema().fields}
    missing = [name for name in (*wanted, SPLIT) if name not in present]
    if missing:
        raise InputError(
            f"The training table {table.table_uri} has no column {missing[0]!r} at version {table.version()}.",
            remedy="Build the training set again after changing the pipeline's features.",
        )


def _chunks(table: DeltaTable, files: fs.FileSystem, names: tuple[str, ...]) -> Iterator[Chunk]:
    """Row groups with rows of the splits, ordered by file name, so that a version always gives the same order."""
    actions = pa.table(table.get_add_actions(flatten=True))
    partition = f"partition.{SPLIT}" if f"partition.{SPLIT}" in actions.column_names else None
    found = actions.column(partition).to_pylist() if partition else [None] * actions.num_rows
    for path, split in sorted(zip(actions.column("path").to_pylist(), found, strict=True)):
        if split is not None and split not in names:
            continue
        with files.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            for row_group in range(parquet.num_row_groups):
                total = parquet.metadata.row_group(row_group).num_rows
                rows = total if partition else _count(parquet, row_group, names)
                if rows:
                    yield Chunk(path, row_group, rows, whole=rows == total)


def _count(parquet: pq.ParquetFile, row_group: int, names: tuple[str, ...]) -> int:
    column = parquet.read_row_group(row_group, columns=[SPLIT], use_threads=False).column(SPLIT)
    return int(pc.sum(_is_in(column, names)).as_py() or 0)


def _is_in(column: pa.Array, names: tuple[str, ...]) -> pa.Array:
    return pc.is_in(column, value_set=pa.array(names, column.type))


class EpochOrder:
    """The sample order of the epochs of a split. A step has `batch_rows` over all ranks; steps, the last one included,
    differ by a few rows at most. Without `shuffle_rows` (evaluation) the table's order is kept."""

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


@dataclass(frozen=True)
class TrainingBatch:
    """Rows of one step on one rank, float32 [n, num_features + num_labels]; the last columns are label and weight."""

    rows: torch.Tensor
    num_labels: int = 1

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def features(self) -> torch.Tensor:
        return self.rows[:, : -self.num_labels]

    @property
    def target(self) -> torch.Tensor:
        return self.rows[:, -self.num_labels :]

    def parts(self, number: int) -> "list[TrainingBatch]":
        """The batch in `number` parts; some are empty if it has fewer rows."""
        return [replace(self, rows=rows) for rows in self.rows.tensor_split(number)]

    def or_placeholder(self) -> "TrainingBatch":
        """This batch, or one row of zeros if it is empty: a rank without rows still takes part in collectives."""
        return self if len(self) else replace(self, rows=self.rows.new_zeros((1, self.rows.shape[1])))

    def on(self, device: torch.device) -> "TrainingBatch":
        """The same rows on a device.

        On a GPU the rows are pinned as one block, so that a single asynchronous copy is made.
        """
        if device.type == "cpu":
            return self
        return replace(self, rows=self.rows.pin_memory().to(device, non_blocking=True))


class BatchReader:
    """The batches of one rank, from any position; `digests` hashes the rows that were read, in their order, by lane.

    Each lane's next window is decoded in the background while the current one is consumed. Two threads do it: at the
    start of an epoch nothing else runs, and each lane has to skip the rows of a row group before its own.
    """

    def __init__(self, order: EpochOrder, *, rank: int, world_size: int) -> None:
        assert world_size <= order.lanes, f"{world_size} workers share {order.lanes} lanes"
        self.order = order
        self.lanes = tuple(range(rank, order.lanes, world_size))
        self.digests: dict[int, str] = dict.fromkeys(self.lanes, "")
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="reader")
        self._ahead: tuple[int, list[_LaneStream]] | None = None

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[TrainingBatch]:
        """The batches of steps `first_step` to the epoch's last; a batch with fewer rows than lanes can be empty."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == epoch and first_step == 0:
            streams = ahead[1]
        else:
            streams = [_LaneStream(self, epoch, lane, first_step) for lane in self.lanes]
        for step in range(first_step, self.order.num_steps):
            rows = torch.cat([stream.take(step) for stream in streams])
            yield TrainingBatch(rows, self.order.split.num_labels)

    def read_ahead(self, epoch: int) -> None:
        """Start to read the next epoch in the background, while the validation split is evaluated."""
        self._ahead = epoch, [_LaneStream(self, epoch, lane, 0) for lane in self.lanes]

    def submit(self, windows: Iterator[torch.Tensor]) -> "Future[torch.Tensor | None]":
        """Decode a lane's next window in the background; the result is None after the last."""
        return self._pool.submit(next, windows, None)


class _LaneStream:
    def __init__(self, reader: BatchReader, epoch: int, lane: int, first_step: int) -> None:
        self.reader, self.epoch, self.lane = reader, epoch, lane
        offset = reader.order.lane_offset(lane, first_step)
        self.window, self.offset = divmod(offset, reader.order.window_rows)
        self.rows: torch.Tensor | None = None
        self.windows = reader.order.windows(epoch, lane, self.window)
        self.next = reader.submit(self.windows)

    def take(self, step: int) -> torch.Tensor:
        order = self.reader.order
        wanted = order.lane_offset(self.lane, step + 1) - order.lane_offset(self.lane, step)
        parts = []
        while wanted:
            if self.rows is None:
                self._advance()
            assert self.rows is not None
            part = self.rows[self.offset : self.offset + wanted]
            parts.append(part)
            wanted -= len(part)
            self.offset += len(part)
            if self.offset == len(self.rows):
                self.rows, self.offset, self.window = None, 0, self.window + 1
        if not parts:
            return torch.empty((0, order.split.width))
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        chain = xxhash.xxh3_128(self.reader.digests[self.lane].encode())
        chain.update(rows.numpy().data)
        self.reader.digests[self.lane] = chain.hexdigest()
        return rows

    def _advance(self) -> None:
        self.rows = self.next.result()
        self.next = self.reader.submit(self.windows)
