"""The scorer of a model process: the transform of one request, and the model on the rows of one or several."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from forecache.realtime.request.parsed import Found, ParsedRequest


class Scorer(Protocol):
    """Transform and model of one release, loaded.

    Attributes:
        examples: Recorded requests with their look-ups, for the warm-up.
    """

    examples: Sequence[tuple[ParsedRequest, Found]]

    def features(self, request: ParsedRequest, found: Found) -> np.ndarray:
        """Transform a request into features, float32 [n, num_features]."""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Score rows of one or several requests: float32 or float64 [n]."""


Load = Callable[[Path], Scorer]
"""Loads the scorer of a release's folder."""


def checked(scores: np.ndarray, rows: int) -> np.ndarray:
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
