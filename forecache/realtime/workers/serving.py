"""The loop of a model process: take the waiting requests, and answer them one by one or as a batch."""

import socket
from time import monotonic_ns

import numpy as np

from forecache.realtime.workers.slot_memory import (
    BATCH,
    BATCHABLE,
    BEGUN,
    BEGUN_NS,
    CANCELLED,
    DONE_NS,
    REQUESTS,
    SHARE_NS,
    SKIPPED,
    STATUS,
    UNTIL_NS,
    SlotMemory,
)
from forecache.realtime.workers.worker_config import ModelScorer, check_scores

READY, BROKEN = b"\xfe", b"\xff"
"""Message that a process sends once in place of a slot's number: it is warm, or its model could not be loaded."""
_RECEIVE_BYTES = 4096
_MOST_ROWS = 8192
_WEIGHT = 0.1


def serve_requests(channel: socket.socket, memory: SlotMemory, scorer: ModelScorer, *, batch_s: float) -> None:
    """Answer requests until the reader closes its end of the channel.

    Args:
        batch_s: Longest expected time of a batch.
    """
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
