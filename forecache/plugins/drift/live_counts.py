"""Count a sample of a release's answers in the bins of its training data, in shared memory.

Each worker writes its own memory, one block for each model; the metrics page adds the blocks of all. A window is one to
two times as long as the setting: its counts are the totals of now minus those at the second to last start of a window.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from random import random
from time import monotonic, perf_counter_ns

import numpy as np
import xxhash
from numpy.typing import NDArray

from forecache.kit.process.periodic import RareMessage
from forecache.realtime.request.request_answer import MODEL, RequestAnswer

SCORE = "score"
"""Name of the column of scores; no feature has it."""
BELOW, ABOVE, NULL = "below", "above", "null"


@dataclass(frozen=True)
class ColumnBins:
    """The bins of a feature, or of the score."""

    name: str
    edges: tuple[float, ...]  # inner edges, ascending: a value that is equal to one lies above it
    counts: tuple[int, ...]  # rows of the training data in each bin, [edges + 1], then those without a number
    low: float | None = None  # of the training data; None: no value is out of range
    high: float | None = None


@dataclass(frozen=True)
class DriftReference:
    """The bins and the training counts that live values of a release are compared with."""

    columns: tuple[ColumnBins, ...]  # the features in the order of the release, then the score if its bins are known
    of: str  # the data that was counted, such as "training split of churn@12"

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @cached_property
    def key(self) -> int:
        """Hash that identifies the bins: counts of two releases with the same key can be added."""
        return xxhash.xxh3_64_intdigest(self.to_json()) or 1

    @property
    def has_score(self) -> bool:
        return bool(self.columns) and self.columns[-1].name == SCORE

    @cached_property
    def edges(self) -> NDArray[np.float32]:
        """float32 [most edges + 2, columns]: the smallest value in range, the inner edges, the first one above the
        range, then NaN, which no value reaches."""
        rows = max((len(column.edges) for column in self.columns), default=0) + 2
        found = np.full((rows, len(self.columns)), np.nan, np.float32)
        for place, column in enumerate(self.columns):
            low = -np.inf if column.low is None else column.low
            cuts = [*_float32_from([low, *column.edges])]
            if column.high is not None:
                cuts.append(np.nextafter(np.float32(column.high), np.float32(np.inf)))
            found[: len(cuts), place] = cuts
        return found

    @property
    def width(self) -> int:
        """Bins of a column: below the range, those in it, above, and the last one for what is no number."""
        return len(self.edges) + 2

    def count(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """Count values by bin: int64 [columns * width]. `values`: float32 [n, columns]."""
        bins = (values >= self.edges[:, None, :]).sum(axis=0, dtype=np.int64)
        bins[np.isnan(values)] = self.width - 1
        bins += self._starts
        return np.bincount(bins.ravel(), minlength=len(self.columns) * self.width)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.arange(len(self.columns)) * self.width

    def counts_by_bin(self, place: int, counts: Sequence[int]) -> dict[str, int]:
        """Return the counts, as of `count`, of one column by the names of its bins."""
        inner = len(self.columns[place].edges) + 1
        own = [int(count) for count in counts[place * self.width : (place + 1) * self.width]]
        bins = {str(number): count for number, count in enumerate(own[1 : inner + 1])}
        return {BELOW: own[0], **bins, ABOVE: own[inner + 1], NULL: own[-1]}

    def training_counts_by_bin(self, place: int) -> dict[str, int]:
        """Return the counts of the training data of one column by the names of its bins."""
        *inner, unknown = self.columns[place].counts
        return {BELOW: 0, **{str(number): count for number, count in enumerate(inner)}, ABOVE: 0, NULL: unknown}


def read_reference(content: bytes) -> DriftReference:
    found = json.loads(content)
    columns = (
        ColumnBins(**{**each, "edges": tuple(each["edges"]), "counts": tuple(each["counts"])})
        for each in found["columns"]
    )
    return DriftReference(tuple(columns), found["of"])


def _float32_from(edges: Sequence[float]) -> list[np.float32]:
    """Return for each edge the smallest float32 that is not below it: it divides float32 values in the same way."""
    rounded = [np.float32(edge) for edge in edges]
    up = np.float32(np.inf)
    return [each if float(each) >= edge else np.nextafter(each, up) for each, edge in zip(rounded, edges, strict=True)]


_KEY, _SIZE, _RELEASE, _LIVE, _TURNED_S, _NANOSECONDS, _NUM_HEAD = range(7)
_NAME_CELLS = 8
_HEAD = _NUM_HEAD + _NAME_CELLS
_COPIES = 3
"""Copies of the counts: now, at the start of the running window, and at the start of the one before."""
Cells = NDArray[np.uint64]


class DriftBlock:
    """The counts of one model in one worker. `total`: uint64 [size], counts since the block was created."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        size = int(cells[_SIZE])
        counts = cells[_HEAD : _HEAD + _COPIES * size].reshape(_COPIES, size)
        self.total, self._turned, self._before = counts

    @property
    def key(self) -> int:
        return int(self._cells[_KEY])

    @property
    def name(self) -> str:
        return self._cells[_NUM_HEAD:_HEAD].tobytes().rstrip(b"\0").decode()

    @property
    def seconds(self) -> float:
        return float(self._cells[_NANOSECONDS]) / 1e9

    def add_time(self, nanoseconds: int) -> None:
        self._cells[_NANOSECONDS] += np.uint64(nanoseconds)

    def start_window_if_due(self, now: float, window_s: float) -> None:
        """Begin the next window if the running one has ended; the owner calls it before it counts."""
        if now - float(self._cells[_TURNED_S]) >= window_s:
            self._before[:] = self._turned if now - float(self._cells[_TURNED_S]) < 2 * window_s else self.total
            self._turned[:] = self.total
            self._cells[_TURNED_S] = int(now)

    def recent_counts(self, now: float, window_s: float) -> Cells:
        """Return the counts of the last one to two windows; zeros if the worker has counted nothing in them."""
        silent_s = now - float(self._cells[_TURNED_S])
        if silent_s >= 2 * window_s:
            return np.zeros_like(self.total)
        return self.total - (self._before if silent_s < window_s else self._turned)


class DriftCells:
    """The blocks in one worker's memory, one after the other; the first cell after the last block is 0."""

    def __init__(self, memory: memoryview) -> None:
        self._cells: Cells = np.frombuffer(memory, np.uint64)

    def open(self, name: str, key: int, size: int, now: float) -> DriftBlock | None:
        """Return a model's block, an existing one with these bins or else a new one; None without memory for it."""
        needed, at, free = _HEAD + _COPIES * size, 0, None
        while at + _HEAD <= len(self._cells) and self._cells[at + _KEY]:
            block = DriftBlock(self._cells[at:])
            if block.name == name:
                if block.key == key and len(block.total) == size:
                    return block
                if len(block.total) == size:
                    free = at
                else:
                    self._cells[at + _NUM_HEAD : at + _HEAD] = 0  # without an owner from now on
            elif not block.name and len(block.total) == size and free is None:
                free = at
            at += _HEAD + _COPIES * len(block.total)
        start = at if free is None else free
        if start + needed > len(self._cells):
            return None
        return self._begin(start, name, key, size, now)

    def _begin(self, start: int, name: str, key: int, size: int, now: float) -> DriftBlock:
        cells = self._cells[start : start + _HEAD + _COPIES * size]
        cells[_NUM_HEAD:] = 0
        cells[_NUM_HEAD:_HEAD].view(np.uint8)[: len(name.encode())] = np.frombuffer(name.encode(), np.uint8)
        cells[_SIZE], cells[_TURNED_S], cells[_NANOSECONDS] = size, int(now), 0
        cells[_KEY] = key  # written last: a block with a key is complete for its readers
        return DriftBlock(self._cells[start:])

    def blocks(self) -> Iterator[DriftBlock]:
        at = 0
        while at + _HEAD <= len(self._cells) and self._cells[at + _KEY]:
            block = DriftBlock(self._cells[at:])
            if block.name:
                yield block
            at += _HEAD + _COPIES * len(block.total)


logger = logging.getLogger("forecache.realtime")
COST_SHARE = 0.01
"""Counting takes at most so much of the time that the answers take."""
FIRST_SHARE, _LEAST_SHARE = 1 / 64, 1 / 4096
_WEIGHT = 0.05
REQUESTS, ROWS = -2, -1
"""Indices after the bins: numbers of requests and rows counted."""


def num_counts(reference: DriftReference) -> int:
    """Return the size of a block: the counts of the bins, then requests and rows."""
    return len(reference.columns) * reference.width + 2


def open_watch(
    memory: memoryview, name: str, reference: DriftReference | None, *, window_s: float
) -> "DriftWatch | None":
    """Open the counting of a model's answers; None if its bins are not known, or (logged) if no memory is left."""
    if reference is None:
        return None
    block = DriftCells(memory).open(name, reference.key, num_counts(reference), monotonic())
    if block is None:
        logger.error("There is no memory left to count the drift of %s: too many models or features.", name)
        return None
    return DriftWatch(reference, block, window_s=window_s)


class DriftWatch:
    """Counts a random sample of answers, on the event loop's thread.

    The sampled share follows from the measured times of counting and of answering.
    """

    def __init__(
        self, reference: DriftReference, block: DriftBlock, *, window_s: float, cost_share: float = COST_SHARE
    ) -> None:
        self._reference, self._block, self._window_s = reference, block, window_s
        self._cost_share, self._share = cost_share, FIRST_SHARE
        self._answer_ns = self._count_ns = 0.0
        self._num_features = len(reference.columns) - reference.has_score
        self._failures = RareMessage(60.0)

    def count_if_sampled(self, answered: RequestAnswer) -> None:
        """Count an answer if it is sampled; an error costs the count, never the answer."""
        if random() < self._share and answered.features is not None:
            began = perf_counter_ns()
            try:
                self._count(answered)
            except Exception as error:  # the answer has gone out, or still has to
                if self._failures.is_due():
                    logger.error("An answer could not be counted for drift.", exc_info=error)
            self._adapt(answered, perf_counter_ns() - began)

    def _count(self, answered: RequestAnswer) -> None:
        features = answered.features
        if not isinstance(features, np.ndarray):
            features = np.frombuffer(features or b"", np.float32)
        features = features.reshape(-1, self._num_features)
        values = features
        if self._reference.has_score:
            values = np.full((len(features), self._num_features + 1), np.nan, np.float32)
            values[:, :-1] = features
            if answered.answered_by == MODEL and answered.scores is not None:
                values[:, -1] = answered.scores
        counts = self._reference.count(values)
        block = self._block
        block.start_window_if_due(monotonic(), self._window_s)
        block.total[: len(counts)] += counts.astype(np.uint64)
        block.total[REQUESTS] += np.uint64(1)
        block.total[ROWS] += np.uint64(len(features))

    def _adapt(self, answered: RequestAnswer, took: int) -> None:
        times = answered.times
        answer = times.parse + times.lookup + times.transform + times.model + times.fallbacks
        weight = _WEIGHT if self._count_ns else 1.0
        self._answer_ns += weight * (answer - self._answer_ns)
        self._count_ns += weight * (took - self._count_ns)
        self._share = min(1.0, max(_LEAST_SHARE, self._cost_share * self._answer_ns / self._count_ns))
        self._block.add_time(took)
