"""Transform and model on the event loop's thread, for native models that take less than two milliseconds."""

import logging
from time import perf_counter_ns

import numpy as np

from forecache.pipeline.realtime.building import Columns
from forecache.realtime.answer.answered import Times
from forecache.realtime.answer.guard import Guard, Spun
from forecache.realtime.answer.model_path import Failed, NoScores, Refused, TooLate
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.parsed import Found, ParsedRequest

logger = logging.getLogger("forecache.realtime")
SPIN_TIMES, SPIN_LEAST_NS, LEFT_NS = 10, 5_000_000, 25_000_000
"""A call is ended after so many times the calibrated 99th percentile on the processor, at least so long, and after so
long on the clock."""
_STRIKES = 3
"""A model leaves the loop after so many calls in a row that did not work and did not return either."""


class InLoopPath:
    """Asks the model on this thread.

    Attributes:
        misbehaved: Why the model must leave the loop; "" while it may stay.
        times: Of the last call.
    """

    in_loop = True

    def __init__(self, loaded: LoadedRelease, guard: Guard, *, p99_s: float) -> None:
        self._loaded, self._guard = loaded, guard
        self._spin_ns = max(SPIN_LEAST_NS, int(SPIN_TIMES * p99_s * 1e9))
        self._strikes = 0
        self.p99_s = p99_s
        self.misbehaved = ""
        self.times = Times()

    def score_now(self, request: ParsedRequest, found: Found, left_ns: int) -> np.ndarray:
        if self.misbehaved:
            raise Refused(self.misbehaved)
        loaded, guard, times = self._loaded, self._guard, self.times
        began = perf_counter_ns()
        try:
            guard.arm(self._spin_ns, min(left_ns, LEFT_NS))
            try:
                rows = loaded.builder.rows(Columns(request.length, request.columns), found.views, found.known)
                features = loaded.features_of(rows)
                between = perf_counter_ns()
                scores = loaded.scores_of(features)
            finally:
                guard.disarm()
        except Spun:
            guard.disarm()  # the alarm may have come while it was being switched off
            self._ended(perf_counter_ns() - began)
            raise TooLate(self.misbehaved) from None
        except Exception as error:
            raise Failed(str(error)) from error
        self._strikes = 0
        times.transform, times.model = between - began, perf_counter_ns() - between
        return scores if scores.dtype.kind == "f" else scores.astype(np.float64)

    def _ended(self, took_ns: int) -> None:
        self._strikes += 1
        if self._guard.spun or self._strikes >= _STRIKES:
            release = self._loaded.release
            self.misbehaved = f"a call took {took_ns / 1e6:.0f} ms and was ended"
            logger.error("%s release %d leaves the event loop: %s.", release.name, release.number, self.misbehaved)

    async def score(self, request: ParsedRequest, found: Found, until: float) -> np.ndarray:
        raise NoScores("this path runs on the loop")

    def expected_s(self) -> float:
        return self.p99_s

    def close(self) -> None:
        """Nothing is held beside the release."""
