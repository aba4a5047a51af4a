"""The contract of a reader and one model process: its configuration, its scorer, and the memory that they share.

The memory has a head of counters, and slots with one request each. It has no name in any file system, so nothing
remains of it when both processes are killed. A slot belongs to the reader until it has sent the slot's number, then to
the model process until that has sent the number back.
"""

import json
import mmap
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from forecache.realtime.request.request_answer import LookupResult, ParsedRequest

HEAD_BYTES = 4096
BEGUN_NS, DONE_NS, REQUESTS, BATCHABLE, WARM_NS, LONGEST_NS, FAULT_BYTES = range(7)
"""Cells of the head: start of the running call (`time.monotonic_ns`; 0: none runs) and end of the last one, number of
requests answered, 1 if requests may be batched, times of the last and of the longest warm-up call, and the length of
the message why the model could not be loaded."""
_FAULT_AT = 1024

UNTIL_NS, CANCELLED, NUM_ROWS, STATUS, NUM_RESULT, WIDE, SHARE_NS, BATCH = range(8)
"""Cells of a slot: deadline (`time.monotonic_ns`), 1 if cancelled, rows; then of the answer: status, length, 1 if its
scores are float64, its share of the call's time, and in the first slot of a batch the number of its requests, in the
others 0. After them, for each column and look-up, its rows and the bytes of its texts."""
_OWN_CELLS = 8
_JOINT = "\0"
_AS_JSON = 1 << 63
"""Flag added to the length of texts that are encoded as JSON, because one of them contains the separator."""
SCORED, FAILED, SKIPPED, BEGUN = range(1, 5)
_FAULT_TEXT_BYTES = 1024
TEXT = "str"


@dataclass(frozen=True)
class SlotLayout:
    """Sizes and layout of the slots."""

    slots: int  # number of slots, at most 250
    text_bytes: int  # most bytes of all texts of a request
    most_rows: int  # most rows of a request
    columns: Mapping[str, str]  # by field of a request, its numpy dtype, or `TEXT`
    widths: Mapping[str, int]  # by look-up, number of its features
    features: int = 0  # number of features of each row that are returned with its score, for the request log; 0: none

    @property
    def data_at(self) -> int:
        """Offset of the data in a slot, after the cells."""
        return 8 * (_OWN_CELLS + 2 * len(self.columns) + len(self.widths))

    @property
    def slot_bytes(self) -> int:
        columns = len(self.columns) * (self.most_rows * 8 + 16) + self.text_bytes
        looked_up = sum(_align(self.most_rows * 4 * width) + _align(self.most_rows) for width in self.widths.values())
        answered = self.most_rows * (8 + 4 * self.features)
        taken = max(columns + looked_up, answered, _FAULT_TEXT_BYTES)
        return -(-(self.data_at + taken) // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def total_bytes(self) -> int:
        return HEAD_BYTES + self.slots * self.slot_bytes


def create_memory(layout: SlotLayout) -> int:
    """Create memory without a name; return its descriptor. Pages take space once they are used."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("forecache-model", os.MFD_CLOEXEC)
    else:
        descriptor, name = tempfile.mkstemp(prefix="forecache-model-")
        os.unlink(name)
    os.ftruncate(descriptor, layout.total_bytes)
    return descriptor


class SlotMemory:
    """One side's view of the memory. `descriptor`: of `create_memory`; it may be closed afterwards."""

    def __init__(self, descriptor: int, layout: SlotLayout) -> None:
        self.layout = layout
        self._map = mmap.mmap(descriptor, layout.total_bytes)
        self._view = memoryview(self._map)
        self.head = self._view[:HEAD_BYTES].cast("Q")
        starts = [HEAD_BYTES + slot * layout.slot_bytes for slot in range(layout.slots)]
        self._slots = [self._view[start : start + layout.slot_bytes] for start in starts]
        self.cells = [slot[: layout.data_at].cast("Q") for slot in self._slots]
        self._data = [slot[layout.data_at :] for slot in self._slots]
        self._dtypes = {name: None if kind == TEXT else np.dtype(kind) for name, kind in layout.columns.items()}

    def write_request(self, slot: int, request: ParsedRequest, found: LookupResult, until_ns: int) -> None:
        """Write a request into a slot, in the reader. Raises `ValueError`: the request does not fit into a slot."""
        layout, data, cells = self.layout, self._data[slot], self.cells[slot]
        if request.length > layout.most_rows:
            raise ValueError(f"A request of {request.length} rows does not fit into a slot.")
        at, place = 0, _OWN_CELLS
        for name, dtype in self._dtypes.items():
            column = request.columns[name]
            cells[place] = len(column)
            if dtype is None:
                joined, coding = join_texts(column.tolist())
                cells[place + 1] = len(joined) | coding
                at = _copy_bytes(data, at, joined)
            else:
                at = _copy_bytes(data, at, column.tobytes())
            place += 2
        for name in layout.widths:
            known = found.known[name]
            cells[place] = len(known)
            place += 1
            at = _copy_bytes(data, at, found.views[name].tobytes())
            at = _copy_bytes(data, at, known.tobytes())
        cells[UNTIL_NS], cells[CANCELLED], cells[NUM_ROWS], cells[STATUS] = until_ns, 0, request.length, 0

    def read_request(self, slot: int) -> tuple[ParsedRequest, LookupResult]:
        """Read the request in a slot, in the model process; as copies, because a transform may keep them."""
        data, cells = self._data[slot], self.cells[slot]
        at, place = 0, _OWN_CELLS
        columns, found = {}, LookupResult()
        for name, dtype in self._dtypes.items():
            if dtype is None:
                size = cells[place + 1] & ~_AS_JSON
                texts = np.array(_split(bytes(data[at : at + size]), bool(cells[place + 1] & _AS_JSON)), object)
                texts.flags.writeable = False
                columns[name] = texts
            else:
                size = cells[place] * dtype.itemsize
                # Arrays over bytes are read-only.
                columns[name] = np.frombuffer(bytes(data[at : at + size]), dtype)
            at += _align(size)
            place += 2
        for name, width in self.layout.widths.items():
            rows = cells[place]
            place += 1
            values = bytes(data[at : at + rows * 4 * width])
            at += _align(len(values))
            found.views[name] = np.frombuffer(values, np.float32).reshape(rows, width)
            found.known[name] = np.frombuffer(bytes(data[at : at + rows]), np.bool_)
            at += _align(rows)
        return ParsedRequest(cells[NUM_ROWS], columns, (), b""), found

    def write_features(self, slot: int, features: np.ndarray) -> None:
        """Write the features of a request, float32 [n, features], after its scores, in the model process."""
        if self.layout.features:
            at = 8 * len(features)
            self._data[slot][at : at + features.nbytes] = features.tobytes()

    def read_features(self, slot: int) -> bytes | None:
        """Read the bytes of the features in a slot; None if none are returned."""
        rows, width = self.cells[slot][NUM_ROWS], self.layout.features
        if not width or rows > self.layout.most_rows:
            return None
        return bytes(self._data[slot][8 * rows : 8 * rows + 4 * rows * width])

    def write_scores(self, slot: int, scores: np.ndarray) -> None:
        """Write the scores of a request, float32 or float64 [n], in the model process."""
        cells, size = self.cells[slot], scores.nbytes
        self._data[slot][:size] = scores.tobytes()
        cells[WIDE], cells[NUM_RESULT], cells[STATUS] = int(scores.itemsize == 8), size, SCORED

    def write_fault(self, slot: int, sentence: str) -> None:
        """Write the reason why a request has no scores, in the model process."""
        text = sentence.encode()[:_FAULT_TEXT_BYTES]
        cells = self.cells[slot]
        self._data[slot][: len(text)] = text
        cells[NUM_RESULT], cells[STATUS] = len(text), FAILED

    def read_scores(self, slot: int) -> np.ndarray:
        """Read a copy of the scores in a slot."""
        cells = self.cells[slot]
        values = bytes(self._data[slot][: cells[NUM_RESULT]])
        return np.frombuffer(values, np.float64 if cells[WIDE] else np.float32)

    def read_fault(self, slot: int) -> str:
        size = min(self.cells[slot][NUM_RESULT], _FAULT_TEXT_BYTES)
        return bytes(self._data[slot][:size]).decode(errors="replace")

    def write_load_fault(self, sentence: str) -> None:
        """Write into the head why the model could not be loaded."""
        text = sentence.encode()[: HEAD_BYTES - _FAULT_AT]
        self._view[_FAULT_AT : _FAULT_AT + len(text)] = text
        self.head[FAULT_BYTES] = len(text)

    def read_load_fault(self) -> str:
        """Read the message of `write_load_fault`; "" if there is none."""
        size = min(self.head[FAULT_BYTES], HEAD_BYTES - _FAULT_AT)
        return bytes(self._view[_FAULT_AT : _FAULT_AT + size]).decode(errors="replace")


def _align(size: int) -> int:
    return -(-size // 8) * 8


def _copy_bytes(memory: memoryview, at: int, values: bytes) -> int:
    """Copy bytes to an offset; return the aligned offset after them."""
    end = at + len(values)
    memory[at:end] = values
    return at + _align(len(values))


def join_texts(texts: list[str]) -> tuple[bytes, int]:
    """Join texts; return the bytes and the encoding: 0 or `_AS_JSON`."""
    joined = _JOINT.join(texts)
    if joined.count(_JOINT) != len(texts) - 1:
        return json.dumps(texts).encode(), _AS_JSON
    return joined.encode("utf-8", "surrogatepass"), 0


def _split(joined: bytes, as_json: bool) -> list[str]:
    return json.loads(joined) if as_json else joined.decode("utf-8", "surrogatepass").split(_JOINT)


READY, BROKEN = b"\xfe", b"\xff"
"""Message that a process sends once in place of a slot's number: it is warm, or its model could not be loaded."""
MODULE = "forecache.realtime.workers"
"""The module that runs as the processes of a model."""


@dataclass(frozen=True)
class WorkerConfig:
    """Start-up configuration that the reader sends to a model process."""

    load: str  # `module:function` of a `Load`
    folder: str  # the argument of `load`
    batch_s: float  # longest expected time of a batch
    layout: SlotLayout

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "WorkerConfig":
        given = json.loads(text)
        return cls(**{**given, "layout": SlotLayout(**given["layout"])})


class ModelScorer(Protocol):
    """Transform and model of one release, loaded."""

    examples: Sequence[tuple[ParsedRequest, LookupResult]]  # recorded requests with their look-ups, for the warm-up

    def features(self, request: ParsedRequest, found: LookupResult) -> np.ndarray:
        """Transform a request into features, float32 [n, num_features]."""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Score rows of one or several requests: float32 or float64 [n]."""


Load = Callable[[Path], ModelScorer]
"""Loads the scorer of a release's folder."""


def check_scores(scores: np.ndarray, rows: int) -> np.ndarray:
    """Return scores as a contiguous float32 or float64 array [n]; raises `ValueError` if not one a row."""
    scores = np.asarray(scores)
    if scores.shape == (rows, 1):
        scores = scores[:, 0]
    if scores.shape != (rows,):
        raise ValueError(f"The model returned an array of shape {list(scores.shape)} for {rows} rows.")
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    return np.ascontiguousarray(scores)
