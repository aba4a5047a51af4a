"""The main function of a model process: load the model, warm it, and answer until the reader closes the channel."""

import gc
import importlib
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns
from typing import Any

import numpy as np

from forecache.realtime.workers.slot_memory import (
    BATCH,
    BATCHABLE,
    BEGUN,
    BEGUN_NS,
    BROKEN,
    CANCELLED,
    DONE_NS,
    LONGEST_NS,
    READY,
    REQUESTS,
    SHARE_NS,
    SKIPPED,
    STATUS,
    UNTIL_NS,
    WARM_NS,
    ModelScorer,
    SlotMemory,
    WorkerConfig,
    check_scores,
)

_WARM_ROUNDS = 5
_TRIALS, _MOST_TRIAL_ROWS = 24, 1024
_RECEIVE_BYTES = 4096
_MOST_ROWS = 8192
_WEIGHT = 0.1


def run_model(orders: WorkerConfig, channel: int, memory: int) -> int:
    """Run as a model process, which closes the descriptors `channel` and `memory`; return its exit code."""
    _prefer_as_oom_victim()
    talks = socket.socket(fileno=channel)
    shared = SlotMemory(memory, orders.layout)
    os.close(memory)
    try:
        scorer: ModelScorer = import_function(orders.load)(Path(orders.folder))
        _warm(shared, scorer)
    except Exception as error:  # noqa: BLE001  # the reader reports what a model's library or code raised
        shared.write_load_fault(f"{type(error).__name__}: {error}")
        with suppress(OSError):
            talks.sendall(BROKEN)
        return 1
    gc.collect()
    gc.freeze()
    with suppress(ConnectionError):  # the reader has gone
        talks.sendall(READY)
        _serve_requests(talks, shared, scorer, batch_s=orders.batch_s)
    return 0


def import_function(path: str) -> Any:
    """Import the function `module:name`."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _warm(memory: SlotMemory, scorer: ModelScorer) -> None:
    """Run recorded requests, record their times, and test if requests may be batched."""

    def predict(matrix: np.ndarray) -> np.ndarray:
        return check_scores(scorer.predict(matrix), len(matrix))

    head, parts = memory.head, []
    for request, found in scorer.examples:
        for _ in range(_WARM_ROUNDS):
            began = head[BEGUN_NS] = monotonic_ns()
            features = scorer.features(request, found)
            predict(features)
            took = head[WARM_NS] = monotonic_ns() - began
            head[LONGEST_NS] = max(head[LONGEST_NS], took)
        parts.append(features)
    head[BEGUN_NS] = 0
    head[BATCHABLE] = int(is_row_independent(predict, parts))


def _prefer_as_oom_victim() -> None:
    """Have the kernel kill a model process rather than the reader when memory runs out."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


def is_row_independent(predict: Callable[[np.ndarray], np.ndarray], parts: Sequence[np.ndarray]) -> bool:
    """Test if a model's score of a row has the same bits in any batch: only then are requests batched.

    Matrix libraries choose different code, with another order of additions, for different numbers of rows, so only a
    trial with this library on this machine can tell.
    """
    parts = [part for part in parts if len(part)]
    if not parts:
        return False
    random = np.random.default_rng(0)
    known = np.concatenate(parts)
    made = [_vary_rows(random, known, int(rows)) for rows in (1, 2, 3, 5, 8, 17, 33, 50, 64, 100)]
    requests = [*parts[:16], *made]
    alone = [predict(request) for request in requests]
    if any(len(scores) != len(request) for scores, request in zip(alone, requests, strict=True)):
        return False
    for _ in range(_TRIALS):
        chosen: list[int] = []
        rows = 0
        for index in random.permutation(len(requests))[: random.integers(2, 9)]:
            if rows + len(requests[index]) <= _MOST_TRIAL_ROWS:
                chosen.append(int(index))
                rows += len(requests[index])
        together = predict(np.concatenate([requests[index] for index in chosen]))
        apart = np.concatenate([alone[index] for index in chosen])
        if together.dtype != apart.dtype or together.tobytes() != apart.tobytes():
            return False
    return True


def _vary_rows(random: np.random.Generator, known: np.ndarray, rows: int) -> np.ndarray:
    """Mix features of different known rows into new rows, scaled a little so that they fill the mantissa."""
    picked = random.integers(0, len(known), (rows, known.shape[1]))
    values = known[picked, np.arange(known.shape[1])]
    noise = random.normal(1.0, 0.3, values.shape).astype(np.float32)
    return np.ascontiguousarray(values * noise + noise * (values == 0), dtype=np.float32)


def _serve_requests(channel: socket.socket, memory: SlotMemory, scorer: ModelScorer, *, batch_s: float) -> None:
    batching = bool(memory.head[BATCHABLE])
    request_ns = batch_s * 1e9
    while waiting := channel.recv(_RECEIVE_BYTES):
        while waiting:
            most = max(1, int(batch_s * 1e9 / request_ns)) if batching else 1
            taken, waiting = waiting[:most], waiting[most:]
            took_ns, done = _answer(memory, scorer, taken)
            channel.sendall(taken)
            if done:
                request_ns += _WEIGHT * (took_ns / done - request_ns)


def _answer(memory: SlotMemory, scorer: ModelScorer, slots: bytes) -> tuple[int, int]:
    """Answer the requests in these slots; return the nanoseconds taken, and the number of requests scored."""
    head = memory.head
    begun = head[BEGUN_NS] = monotonic_ns()
    parts: list[tuple[int, np.ndarray]] = []
    rows = 0
    for slot in slots:
        cells = memory.cells[slot]
        if cells[CANCELLED] or cells[UNTIL_NS] <= monotonic_ns():
            cells[STATUS] = SKIPPED
            continue
        cells[STATUS] = BEGUN
        try:
            features = scorer.features(*memory.read_request(slot))
            memory.write_features(slot, features)
        except Exception as error:  # noqa: BLE001  # an error of the transform fails this request only
            memory.write_fault(slot, _sentence(error))
            continue
        if parts and rows + len(features) > _MOST_ROWS:
            _predict(memory, scorer, parts)
            parts, rows = [], 0
        parts.append((slot, features))
        rows += len(features)
    if parts:
        _predict(memory, scorer, parts)
    done = head[DONE_NS] = monotonic_ns()
    took = done - begun
    for slot in slots:
        cells = memory.cells[slot]
        cells[SHARE_NS], cells[BATCH] = took // len(slots), 0
    memory.cells[slots[0]][BATCH] = len(slots)
    head[REQUESTS] += len(slots)
    head[BEGUN_NS] = 0
    return took, len(parts)


def _predict(memory: SlotMemory, scorer: ModelScorer, parts: list[tuple[int, np.ndarray]]) -> None:
    matrix = parts[0][1] if len(parts) == 1 else np.concatenate([features for _, features in parts])
    try:
        scores = check_scores(scorer.predict(matrix), len(matrix))
    except Exception as error:  # noqa: BLE001  # a model may raise anything
        if len(parts) > 1:  # score them one by one to find the request that fails
            for part in parts:
                _predict(memory, scorer, [part])
        else:
            memory.write_fault(parts[0][0], _sentence(error))
        return
    start = 0
    for slot, features in parts:
        memory.write_scores(slot, scores[start : start + len(features)])
        start += len(features)


def _sentence(error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"
