"""The main function of a model process: load the model, warm it, and answer until the reader closes the channel."""

import gc
import importlib
import os
import socket
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns
from typing import Any

import numpy as np

from forecache.realtime.workers.independence import is_row_independent
from forecache.realtime.workers.serving import BROKEN, READY, serve_requests
from forecache.realtime.workers.slot_memory import BATCHABLE, BEGUN_NS, LONGEST_NS, WARM_NS, SlotMemory
from forecache.realtime.workers.worker_config import ModelScorer, WorkerConfig, check_scores

_WARM_ROUNDS = 5


def run_model(orders: WorkerConfig, channel: int, memory: int) -> int:
    """Run as a model process; return its exit code.

    Args:
        channel, memory: Descriptors, which this process closes.
    """
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
        serve_requests(talks, shared, scorer, batch_s=orders.batch_s)
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
