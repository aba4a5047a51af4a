"""The contract of a model process: the configuration that the reader starts it with, and the scorer that it loads."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from forecache.realtime.request.parsed_request import LookupResult, ParsedRequest
from forecache.realtime.workers.slot_memory import SlotLayout

READY, BROKEN = b"\xfe", b"\xff"
"""Message that a process sends once in place of a slot's number: it is warm, or its model could not be loaded."""
MODULE = "forecache.realtime.workers"
"""The module that runs as the processes of a model."""


@dataclass(frozen=True)
class WorkerConfig:
    """Start-up configuration that the reader sends to a model process.

    Attributes:
        load: `module:function` of a `Load`.
        folder: The argument of `load`.
        batch_s: Longest expected time of a batch.
    """

    load: str
    folder: str
    batch_s: float
    layout: SlotLayout

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "WorkerConfig":
        given = json.loads(text)
        return cls(**{**given, "layout": SlotLayout(**given["layout"])})


class ModelScorer(Protocol):
    """Transform and model of one release, loaded.

    Attributes:
        examples: Recorded requests with their look-ups, for the warm-up.
    """

    examples: Sequence[tuple[ParsedRequest, LookupResult]]

    def features(self, request: ParsedRequest, found: LookupResult) -> np.ndarray:
        """Transform a request into features, float32 [n, num_features]."""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Score rows of one or several requests: float32 or float64 [n]."""


Load = Callable[[Path], ModelScorer]
"""Loads the scorer of a release's folder."""


def check_scores(scores: np.ndarray, rows: int) -> np.ndarray:
    """Return scores as a contiguous float32 or float64 array [n].

    Raises:
        ValueError: There is not one number for each row.
    """
    scores = np.asarray(scores)
    if scores.shape == (rows, 1):
        scores = scores[:, 0]
    if scores.shape != (rows,):
        raise ValueError(f"The model returned an array of shape {list(scores.shape)} for {rows} rows.")
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    return np.ascontiguousarray(scores)
