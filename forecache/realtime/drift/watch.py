"""Count a sample of a release's answers in the bins of its training data, within a share of the answers' time."""

import logging
from random import random
from time import monotonic, perf_counter_ns

import numpy as np

from forecache.realtime.answer.request_answer import MODEL, RequestAnswer
from forecache.realtime.drift.cells import DriftBlock, DriftCells
from forecache.realtime.drift.reference import DriftReference

logger = logging.getLogger("forecache.realtime")
COST_SHARE = 0.01
"""Counting takes at most so much of the time that the answers take."""
FIRST_SHARE, _LEAST_SHARE = 1 / 64, 1 / 4096
_WEIGHT = 0.05
_TELL_EVERY_S = 60.0
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

    Args:
        window_s: Length of the window; see `forecache.realtime.drift.cells`.
        cost_share: Share of the answers' time that counting may take.
    """

    def __init__(
        self, reference: DriftReference, block: DriftBlock, *, window_s: float, cost_share: float = COST_SHARE
    ) -> None:
        self._reference, self._block, self._window_s = reference, block, window_s
        self._cost_share, self._share = cost_share, FIRST_SHARE
        self._answer_ns = self._count_ns = 0.0
        self._num_features = len(reference.columns) - reference.has_score
        self._told = float("-inf")

    def count_if_sampled(self, answered: RequestAnswer) -> None:
        """Count an answer if it is sampled; an error costs the count, never the answer."""
        if random() < self._share and answered.features is not None:
            began = perf_counter_ns()
            try:
                self._count(answered)
            except Exception as error:  # noqa: BLE001  # the answer has gone out, or still has to
                self._log_failure(error)
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
            if answered.rung == MODEL and answered.scores is not None:
                values[:, -1] = answered.scores
        counts = self._reference.count(values)
        block = self._block
        block.start_window_if_due(monotonic(), self._window_s)
        block.total[: len(counts)] += counts.astype(np.uint64)
        block.total[REQUESTS] += np.uint64(1)
        block.total[ROWS] += np.uint64(len(features))

    def _adapt(self, answered: RequestAnswer, took: int) -> None:
        times = answered.times
        answer = times.parse + times.lookup + times.transform + times.model + times.ladder
        weight = _WEIGHT if self._count_ns else 1.0
        self._answer_ns += weight * (answer - self._answer_ns)
        self._count_ns += weight * (took - self._count_ns)
        self._share = min(1.0, max(_LEAST_SHARE, self._cost_share * self._answer_ns / self._count_ns))
        self._block.add_time(took)

    def _log_failure(self, error: Exception) -> None:
        now = monotonic()
        if now - self._told >= _TELL_EVERY_S:
            self._told = now
            logger.error("An answer could not be counted for drift.", exc_info=error)
