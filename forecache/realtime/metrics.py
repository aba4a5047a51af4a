"""Counters of the real-time models of one worker, in the extension part of its slot of shared memory.

Each model has a named block of 64-bit cells; the Prometheus page adds up the blocks of all workers.
"""

from collections.abc import Iterable, Iterator

from forecache.realtime.request.request_answer import RequestAnswer
from forecache.serve.reader.shared_memory import NAME_BYTES, NameTable
from forecache.serve.reader.worker_metrics import EXTENSION_BYTES, WorkerMetrics

ANSWERED_BY = ("model", "dot_product", "precomputed", "default", "order_given")
REASONS = ("deadline", "overload", "lookup", "contract", "failed", "worker_lost", "refused")
STAGES = ("wait", "parse", "lookup", "transform", "model", "fallbacks", "render")
BUCKETS = 24
"""Bucket i counts answers sent less than 2**i microseconds after arrival; the last bucket counts all slower ones."""

LOST_REASONS = ("memory", "spool", "disk", "killed", "error")
"""Reasons why a worker lost rows of a log: no room in memory (the writer is slow or hangs) or in the spool; a failed
write; the worker was killed, or stopped while its disk hung, with rows in memory; an answer could not be encoded."""
LOG_CELLS = ("accepted", "spooled", *(f"lost_{reason}" for reason in LOST_REASONS), "sending")
CAUSES = ("crashed", "hung", "stopped", "memory", "start")
"""Reasons why a process was replaced."""
BATCHES = (1, 2, 4, 8, 16, 32)
"""Upper bounds of the histogram of batch sizes, in requests; a last one counts all larger ones."""
PATH_CELLS = (
    "started", "templates_started", "template_failures", *(f"replaced_{cause}" for cause in CAUSES), "processes",
    "abandoned", "requeued", *(f"batches_{bound}" for bound in (*BATCHES, "more")), "batched_requests",
    "breaker_open", "breaker_opened", "breaker_refused", "cache_hits", "cache_joined", "cache_misses", "cache_bytes",
    "cache_saved_us", "hedged_reads", "hedges_won", "late_reads",
)  # fmt: skip


class _NamedCells:
    """Cells by their names, in the order of `names`, which may be in shared memory; None: memory of its own."""

    names: tuple[str, ...]
    places: dict[str, int]

    def __init_subclass__(cls) -> None:
        cls.places = {name: place for place, name in enumerate(cls.names)}

    def __init__(self, cells: memoryview | list[int] | None = None) -> None:
        self.cells: memoryview | list[int] = [0] * len(self.names) if cells is None else cells

    def add(self, name: str, number: int = 1) -> None:
        self.cells[self.places[name]] += number

    def get(self, name: str) -> int:
        return self.cells[self.places[name]]


class PathCounters(_NamedCells):
    """Counters of the path to one release's model: worker processes, circuit breaker, cache, remote reads.

    The paths of two releases may share a gauge for a moment.
    """

    names = PATH_CELLS

    def count_replacement(self, cause: str) -> None:
        self.add(f"replaced_{cause}")

    def count_batch(self, requests: int) -> None:
        place = next((place for place, bound in enumerate(BATCHES) if requests <= bound), len(BATCHES))
        self.cells[_BATCHES + place] += 1
        self.cells[_BATCHED] += requests


_BATCHES, _BATCHED = PATH_CELLS.index("batches_1"), PATH_CELLS.index("batched_requests")


class LogCounters(_NamedCells):
    """Counters of the rows of one worker's request log; in shared memory they outlive it.

    The loop's thread counts "accepted", "lost_memory" and "lost_error", the writer's all others. "sending" marks that
    an answer is being sent that is not in the log yet.
    """

    names = LOG_CELLS

    def set_sending(self, is_sending: bool) -> None:
        self.cells[self.places["sending"]] = int(is_sending)

    def losses_by_reason(self) -> dict[str, int]:
        return {reason: self.get(f"lost_{reason}") for reason in LOST_REASONS}

    @property
    def waiting(self) -> int:
        """Number of accepted rows that are neither in the spool nor counted as lost."""
        gone = sum(self.get(name) for name in ("spooled", "lost_spool", "lost_disk", "lost_killed"))
        return max(0, self.get("accepted") - gone)

    def count_abandoned_rows(self) -> None:
        """Count as lost the rows that the last worker with these cells had in memory, or had just sent, when it ended.

        Rows that it had written but not yet counted are included, although they are in the spool.
        """
        self.add("accepted", self.get("sending"))
        self.set_sending(False)
        self.add("lost_killed", self.waiting)


_OWN = (
    *(f"answered_by_{name}" for name in ANSWERED_BY),
    *(f"reason_{reason}" for reason in REASONS),
    *(f"stage_{stage}" for stage in STAGES),
    "answers", "in_time", "late", "flagged", "seconds", "release", "live", "in_loop",
    "swaps", "swap_failures", "p99_us", "damaged",
)  # fmt: skip
_LATENCY = len(_OWN)
_WORKERS = _LATENCY + BUCKETS
_LOG = _WORKERS + len(PATH_CELLS)
_BLOCK = _LOG + len(LOG_CELLS)
CELL = {
    name: start + place
    for start, names in ((0, _OWN), (_WORKERS, PATH_CELLS), (_LOG, LOG_CELLS))
    for place, name in enumerate(names)
}
"""Place of each cell by its name, including those of `PathCounters` and `LogCounters`."""
CANDIDATE = "@candidate"
_MODEL_BYTES = 64 * 1024
MAX_MODELS = _MODEL_BYTES // (_BLOCK * 8 + NAME_BYTES)
assert _MODEL_BYTES < EXTENSION_BYTES
GAUGES = ("release", "live", "in_loop", "p99_us", "damaged", "breaker_open", "cache_bytes", "processes")


class ModelCells:
    """The cells of one model in one worker; `cells[CELL[name]] += 1` counts."""

    __slots__ = ("cells",)

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells

    def observe(self, elapsed_ns: int) -> None:
        cells = self.cells
        bucket = (elapsed_ns // 1000).bit_length()
        cells[_LATENCY + (bucket if bucket < BUCKETS else BUCKETS - 1)] += 1
        cells[_ANSWERS] += 1
        cells[_SECONDS] += elapsed_ns

    def count(self, answered: RequestAnswer, *, elapsed: int, late: bool) -> None:
        """Count an answer, the fallbacks that it came from, and the nanoseconds of its stages."""
        cells, times = self.cells, answered.times
        self.observe(elapsed)
        if answered.answered_by:
            cells[CELL[f"answered_by_{answered.answered_by}"]] += len(answered.items) or 1
        else:
            for name in answered.item_answered_by:
                cells[CELL[f"answered_by_{name}"]] += 1
        if answered.fallback_reason:
            cells[CELL[f"reason_{answered.fallback_reason}"]] += 1
        cells[_IN_TIME] += not (answered.fallback_reason or late)
        cells[_LATE] += late
        cells[_FLAGGED] += bool(answered.warnings)
        cells[_WAIT] += times.wait
        cells[_WAIT + 1] += times.parse
        cells[_WAIT + 2] += times.lookup
        cells[_WAIT + 3] += times.transform
        cells[_WAIT + 4] += times.model
        cells[_WAIT + 5] += times.fallbacks
        spent = times.wait + times.parse + times.lookup + times.transform + times.model + times.fallbacks
        cells[_WAIT + 6] += max(0, elapsed - spent)

    @property
    def path_counters(self) -> PathCounters:
        return PathCounters(self.cells[_WORKERS:_LOG])

    @property
    def log_counters(self) -> LogCounters:
        return LogCounters(self.cells[_LOG:])

    @property
    def latency(self) -> memoryview:
        return self.cells[_LATENCY:_WORKERS]


_ANSWERS, _SECONDS, _LATE, _FLAGGED = CELL["answers"], CELL["seconds"], CELL["late"], CELL["flagged"]
_IN_TIME, _WAIT = CELL["in_time"], CELL["stage_wait"]


class RealtimeMetrics:
    """The blocks in one worker's slot. `drift`: the rest of the memory, for `forecache.plugins.drift.live_counts`."""

    def __init__(self, memory: memoryview) -> None:
        size = MAX_MODELS * _BLOCK * 8
        self._blocks, self._names = memory[:size].cast("Q"), NameTable(memory[size:_MODEL_BYTES], MAX_MODELS)
        self.drift = memory[_MODEL_BYTES:]

    def cells_of_model(self, name: str) -> ModelCells:
        """Return the cells of a model; a block is assigned if it has none yet. Raises `LookupError` if none is left."""
        try:
            return self._block(self._names.assign_place(name))
        except LookupError:
            raise LookupError(f"A reader counts at most {MAX_MODELS} real-time models.") from None

    def cells_of_candidate(self, name: str) -> ModelCells:
        """Return the cells of a release that is being rolled out.

        They are those of the model if no block is free, or if its name is too long for a block of its own.
        """
        try:
            return self.cells_of_model(f"{name}{CANDIDATE}")
        except LookupError:
            return self.cells_of_model(name)

    def models(self) -> Iterator[tuple[str, ModelCells]]:
        for place, name in enumerate(self._names):
            yield name, self._block(place)

    def reset_gauges(self) -> None:
        """Set the gauges of an earlier worker with this slot to 0."""
        for _, block in self.models():
            for name in GAUGES:
                block.cells[CELL[name]] = 0

    def _block(self, place: int) -> ModelCells:
        return ModelCells(self._blocks[place * _BLOCK : (place + 1) * _BLOCK])


def blocks_by_model(workers: Iterable[WorkerMetrics]) -> dict[str, list[ModelCells]]:
    """Return the cells of each model in workers that count it, in alphabetical order."""
    found: dict[str, list[ModelCells]] = {}
    for worker in workers:
        for name, block in RealtimeMetrics(worker.extension).models():
            found.setdefault(name, []).append(block)
    return dict(sorted(found.items()))


def serving_blocks(blocks: Iterable[ModelCells]) -> list[ModelCells]:
    """Return the cells of those workers that serve the model now, of live ones."""
    return [block for block in blocks if block.cells[CELL["live"]]]


def sum_cell(blocks: Iterable[ModelCells], name: str) -> int:
    place = CELL[name]
    return sum(block.cells[place] for block in blocks)
