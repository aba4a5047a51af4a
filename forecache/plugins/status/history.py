"""History of a reader: counts of all its workers in the last ten minutes, a sample every two seconds, in shared memory.

A sample has sums over all workers since the reader started, and rates and quantiles of the two seconds before it, so
that a page with charts only reads a few columns.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from forecache.kit.http.problems import BUSY
from forecache.serve.reader.shared_memory import NAME_BYTES, NameTable
from forecache.serve.reader.worker_metrics import BUCKETS, WorkerMetrics

_HEAD_BYTES = 8


class Ring:
    """A ring of samples in shared memory, each a row of 64-bit cells with a number from 1 on. All read without a lock.

    A row is written before its number is, and one row more than `length` is kept, so that the row that is being written
    is none of those that are read.
    """

    def __init__(self, memory: memoryview, width: int, length: int) -> None:
        self.width, self.length = width, length
        self._rows = length + 1
        self._newest = memory[:_HEAD_BYTES].cast("Q")
        self._cells = memory[_HEAD_BYTES : _HEAD_BYTES + self._rows * width * 8].cast("q")

    @staticmethod
    def size(width: int, length: int) -> int:
        return _HEAD_BYTES + (length + 1) * width * 8

    @property
    def newest(self) -> int:
        return self._newest[0]

    @property
    def oldest(self) -> int:
        """The number of the oldest sample that is kept; 1 before the first."""
        return max(1, self.newest - self.length + 1)

    def append(self, sample: Sequence[int]) -> None:
        number = self._newest[0] + 1
        start = number % self._rows * self.width
        for cell, value in enumerate(sample, start):
            self._cells[cell] = value
        self._newest[0] = number

    def sample(self, number: int, first: int = 0, count: int | None = None) -> list[int]:
        """`count` cells of a sample from `first` on; all of them by default."""
        start = number % self._rows * self.width
        return self._cells[start + first : start + (self.width if count is None else first + count)].tolist()

    def column(self, cell: int, most: int | None = None) -> list[int]:
        """A cell of the newest samples, at most `most` of them, the oldest first."""
        newest = self.newest
        kept = min(newest, self.length, self.length if most is None else most)
        cells, rows = self._cells[cell :: self.width].tolist(), self._rows
        return [cells[number % rows] for number in range(newest - kept + 1, newest + 1)]


def quantile_us(counts: Sequence[int], share: float) -> float | None:
    """The duration in microseconds that a share of the observations does not exceed; None without observations.

    Of bucket i, `counts` has those of at least 2**(i-1) and less than 2**i microseconds. Like Prometheus's
    `histogram_quantile`, it assumes that the observations of a bucket are evenly spread.
    """
    total = sum(counts)
    if not total:
        return None
    wanted, below = share * total, 0
    for bucket, count in enumerate(counts):
        if count and below + count >= wanted:
            low, high = (2 ** (bucket - 1) if bucket else 0), 2**bucket
            return low + (high - low) * (wanted - below) / count
        below += count
    return float(2 ** len(counts))


STEP_S = 2
LENGTH = 300
MOST_PIPELINES, MOST_MODELS = 64, 16
"""Most pipelines and models with a history; of further ones, only sums since the reader started are shown."""
MORE_CELLS = 28
"""Most counters of a model beside its histogram."""

_AT, _CLOCK, _OK, _CLIENT_ERRORS, _SERVER_ERRORS, _BUCKETS = range(6)
_PER_S = _BUCKETS + BUCKETS
_FAILED_PER_S, _P50_US, _P99_US = _PER_S + 1, _PER_S + 2, _PER_S + 3
_HEAD = _P99_US + 1
_PIPELINE = 2
_MODEL = BUCKETS + MORE_CELLS + 1
_MODELS_AT = _HEAD + MOST_PIPELINES * _PIPELINE
_WIDTH = _MODELS_AT + MOST_MODELS * _MODEL
_NAMES_BYTES = (MOST_PIPELINES + MOST_MODELS) * NAME_BYTES
HISTORY_BYTES = _NAMES_BYTES + Ring.size(_WIDTH, LENGTH)
_MILLI = 1000
"""Rates are kept in thousandths."""


@dataclass(frozen=True)
class ModelCounts:
    """Counters of a model, summed over all workers."""

    buckets: Sequence[int]  # answers by their duration, in the buckets of the reader's own histogram
    more: Sequence[int]  # at most `MORE_CELLS`, in an order that the part chooses


@dataclass(frozen=True)
class ReaderTraffic:
    """The reader's answers to requests for keys and to real-time models, by outcome and by duration."""

    ok: int
    client_errors: int
    server_errors: int
    buckets: list[int]

    @property
    def requests(self) -> int:
        return self.ok + self.client_errors + self.server_errors


@dataclass(frozen=True)
class WindowCounts:
    """Counts over a window of time."""

    seconds: float  # 0 before the second sample
    counts: list[int]

    def per_s(self, count: int) -> float:
        return count / self.seconds if self.seconds else 0.0


class History:
    """The samples, for the one process that adds them and for all that show them.

    Of less `memory` than `HISTORY_BYTES` there is no history.
    """

    def __init__(self, memory: memoryview) -> None:
        if len(memory) < HISTORY_BYTES:
            memory = memoryview(bytearray(HISTORY_BYTES))
        split = MOST_PIPELINES * NAME_BYTES
        self._pipelines = NameTable(memory[:split], MOST_PIPELINES)
        self._models = NameTable(memory[split:_NAMES_BYTES], MOST_MODELS)
        self._ring = Ring(memory[_NAMES_BYTES:HISTORY_BYTES], _WIDTH, LENGTH)

    @property
    def newest(self) -> int:
        """The number of the newest sample; 0 before the first."""
        return self._ring.newest

    def add_sample(
        self,
        at: float,
        traffic: ReaderTraffic,
        pipelines: Mapping[str, tuple[int, int]],
        models: Mapping[str, ModelCounts],
        *,
        clock_s: float,
    ) -> None:
        """Add a sample: `at` is Unix time, which may be set back; `clock_s` is monotonic and counts the seconds."""
        self._pipelines.add(pipelines)
        self._models.add(models)
        before = self._ring.sample(self._ring.newest) if self._ring.newest else None
        sample = [
            int(at * 1000), int(clock_s * 1000),
            traffic.ok, traffic.client_errors, traffic.server_errors, *traffic.buckets, 0, 0, 0, 0,
            *chain.from_iterable(pipelines.get(name, (0, 0)) for name in self._pipelines),
        ]  # fmt: skip
        sample += [0] * (_MODELS_AT - len(sample))
        for name in self._models:
            counted = models.get(name)
            more = [] if counted is None else list(counted.more)[:MORE_CELLS]
            buckets = [0] * BUCKETS if counted is None else list(counted.buckets)
            sample += [*buckets, *more, *[0] * (MORE_CELLS - len(more)), 0]
        sample += [0] * (_WIDTH - len(sample))
        if before is not None:
            self._derive(sample, before)
        self._ring.append(sample)

    def _derive(self, sample: list[int], before: list[int]) -> None:
        seconds = max(sample[_CLOCK] - before[_CLOCK], 1) / 1000
        change = [max(0, now - was) for now, was in zip(sample, before, strict=True)]
        buckets = change[_BUCKETS:_PER_S]
        answered = change[_OK] + change[_CLIENT_ERRORS] + change[_SERVER_ERRORS]
        sample[_PER_S] = int(answered / seconds * _MILLI)
        sample[_FAILED_PER_S] = int(change[_SERVER_ERRORS] / seconds * _MILLI)
        sample[_P50_US], sample[_P99_US] = int(quantile_us(buckets, 0.5) or 0), int(quantile_us(buckets, 0.99) or 0)
        for place in range(len(list(self._models))):
            start = _MODELS_AT + place * _MODEL
            sample[start + _MODEL - 1] = int(sum(change[start : start + BUCKETS]) / seconds * _MILLI)

    def series(self) -> dict[str, list[float] | list[int]]:
        """Values of each sample by name, the oldest first: Unix seconds, rates per second, microseconds."""
        column = self._ring.column
        return {
            "at_s": [at / 1000 for at in column(_AT)],
            "per_s": [rate / _MILLI for rate in column(_PER_S)],
            "failed_per_s": [rate / _MILLI for rate in column(_FAILED_PER_S)],
            "p50_us": column(_P50_US),
            "p99_us": column(_P99_US),
        }

    def model_series(self, name: str) -> list[float]:
        place = self._models.find_place(name)
        if place is None:
            return []
        return [rate / _MILLI for rate in self._ring.column(_MODELS_AT + (place + 1) * _MODEL - 1)]

    def recent_traffic(self, seconds: int) -> tuple[float, ReaderTraffic]:
        """(length in seconds, answers) of the window of the last `seconds`."""
        line = self._window(seconds, _OK, _PER_S - _OK)
        ok, client_errors, server_errors, *buckets = line.counts
        return line.seconds, ReaderTraffic(ok, client_errors, server_errors, buckets)

    def pipeline_counts(self, name: str, seconds: int) -> WindowCounts:
        """Keys found and not found in the last `seconds`."""
        place = self._pipelines.find_place(name)
        if place is None:
            return WindowCounts(0.0, [0, 0])
        return self._window(seconds, _HEAD + place * _PIPELINE, _PIPELINE)

    def model_counts(self, name: str, seconds: int) -> tuple[float, ModelCounts]:
        """(length in seconds, counts of a model) of the window of the last `seconds`."""
        place = self._models.find_place(name)
        if place is None:
            return 0.0, ModelCounts([0] * BUCKETS, [0] * MORE_CELLS)
        line = self._window(seconds, _MODELS_AT + place * _MODEL, _MODEL)
        return line.seconds, ModelCounts(line.counts[:BUCKETS], line.counts[BUCKETS:-1])

    def _window(self, seconds: int, first: int, count: int) -> WindowCounts:
        ring = self._ring
        newest = ring.newest
        oldest = max(ring.oldest, newest - seconds // STEP_S)
        if oldest >= newest:
            return WindowCounts(0.0, [0] * count)
        began, ended = ring.sample(oldest, _CLOCK, 1)[0], ring.sample(newest, _CLOCK, 1)[0]
        before, after = ring.sample(oldest, first, count), ring.sample(newest, first, count)
        return WindowCounts((ended - began) / 1000, [max(0, now - was) for now, was in zip(after, before, strict=True)])


def traffic_of(workers: Iterable[WorkerMetrics], routes: Collection[str]) -> ReaderTraffic:
    """The answers of all workers on these routes since the reader started."""
    outcomes, buckets = [0, 0, 0], [0] * BUCKETS
    for route, status, counts, _ in (outcome for worker in workers for outcome in worker.durations()):
        if route in routes:
            outcomes[2 if status >= 500 or status == BUSY.status else status >= 400] += sum(counts)
            buckets = list(map(int.__add__, buckets, counts))
    ok, client_errors, server_errors = outcomes
    return ReaderTraffic(ok, client_errors, server_errors, buckets)
