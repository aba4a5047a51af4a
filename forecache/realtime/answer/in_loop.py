"""Transform and model on the event loop's thread, for native models that take less than two milliseconds."""

import logging
from time import perf_counter_ns

import numpy as np

from forecache.pipeline.realtime.building import Columns
from forecache.realtime.answer.answered import Times
from forecache.realtime.answer.guard import Guard, Spun
from forecache.realtime.answer.model_path import Failed, NoScores, TooLate
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.parsed import Found, ParsedRequest

logger = logging.getLogger("forecache.realtime")
GUARD_TIMES, GUARD_LEAST_S = 10, 0.005
"""A call is ended after this many times the calibrated 99th percentile, at least after so long."""


class InLoopPath:
    """Asks the model on this thread.

    Attributes:
        misbehaved: Why the model must leave the loop: what a call did that ran for too long; "" if none has.
    """

    in_loop = True

    def __init__(self, loaded: LoadedRelease, guard: Guard, *, p99_s: float) -> None:
        self._loaded, self._guard = loaded, guard
        self._limit_s = max(GUARD_LEAST_S, GUARD_TIMES * p99_s)
        self.p99_s = p99_s
        self.misbehaved = ""
        self.times = Times()

    def score_now(self, request: ParsedRequest, found: Found) -> np.ndarray:
        loaded, guard, times = self._loaded, self._guard, self.times
        began = perf_counter_ns()
        try:
            guard.arm(self._limit_s)
            try:
                rows = loaded.builder.rows(Columns(request.length, request.columns), found.views, found.known)
                features = loaded.features_of(rows)
                between = perf_counter_ns()
                scores = loaded.scores_of(features)
            finally:
                guard.disarm()
        except Spun:
            guard.disarm()  # the alarm may have come while it was being switched off
            self.misbehaved = f"a call took more than {self._limit_s * 1e3:.0f} ms"
            logger.error(
                "%s release %d leaves the event loop: %s.",
                loaded.release.name, loaded.release.number, self.misbehaved,
            )  # fmt: skip
            raise TooLate(self.misbehaved) from None
        except Exception as error:
            raise Failed(str(error)) from error
        times.transform, times.model = between - began, perf_counter_ns() - between
        return scores if scores.dtype.kind == "f" else scores.astype(np.float64)

    async def score(self, request: ParsedRequest, found: Found, until: float) -> np.ndarray:
        raise NoScores("this path runs on the loop")

    def expected_s(self) -> float:
        return self.p99_s

    def close(self) -> None:
        """Nothing is held beside the release."""
