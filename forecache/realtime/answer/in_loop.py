"""Run transform and model on the event loop's thread, for native models that take less than two milliseconds.

Replays outside the request path run them on their own thread by `DirectPath`, without limits.
"""

import logging
from asyncio import CancelledError
from dataclasses import dataclass, field
from time import perf_counter_ns

import numpy as np

from forecache.declare.realtime.request_rows import RequestArrays
from forecache.realtime.answer.cpu_guard import CpuBudgetError, CpuGuard
from forecache.realtime.answer.model_path import ModelCallError, RefusedCallError, TooLate
from forecache.realtime.answer.request_answer import StageTimes
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.parsed_request import LookupResult, ParsedRequest

logger = logging.getLogger("forecache.realtime")
SPIN_TIMES, SPIN_LEAST_NS = 10, 5_000_000
"""CPU budget of a call: so many times the calibrated 99th percentile, at least so many nanoseconds."""
_PATIENCE_NS = 100_000_000
"""Longest wall-clock time of a call, as others wait behind it; also at most half of its time left, though twice the
usual time is always granted if so much is left."""
_SPUN_NS, _SPUN_SHARE = 1_000_000, 0.1
"""An interrupted call counts as spinning if its CPU time is at least this, twice the usual time, and this share of its
wall-clock time. Else it slept or waited for a core; the alarms that fire in a sleeping call use 1 % of the time."""
_TELL_EVERY_NS = 10_000_000_000
_STRIKES, _SPINS = 5, 3
"""A model leaves the loop after one spinning call, or after so many other interrupted calls in a row. Until its worker
processes are warm it is still called, unless it has spun so often."""


@dataclass(eq=False)
class DirectPath:
    """A `ModelPath` without a CPU guard or a time limit; errors of transform and model reach the caller."""

    loaded: LoadedRelease
    in_loop: bool = True
    times: StageTimes = field(default_factory=StageTimes)

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        rows = self.loaded.builder.build_rows(RequestArrays(request.length, request.columns), found.views, found.known)
        found.features = self.loaded.features_of(rows)
        return self.loaded.scores_of(found.features)

    async def score(self, request: ParsedRequest, found: LookupResult, until: float) -> np.ndarray:
        raise AssertionError("the engine calls `score_now` of a path on the loop")

    def expected_s(self) -> float:
        return 0.0

    def close(self) -> None:
        """Do nothing: no resources beside the release."""


class InLoopPath(DirectPath):
    """A `ModelPath` on this thread, guarded by a CPU budget.

    Attributes:
        misbehaved: Why the model must leave the loop; "" while it may stay.
    """

    def __init__(self, loaded: LoadedRelease, guard: CpuGuard, *, p99_s: float) -> None:
        super().__init__(loaded)
        self._guard = guard
        usual_ns = int(p99_s * 1e9)
        self._enough_ns = 2 * usual_ns
        self._spin_ns = max(SPIN_LEAST_NS, SPIN_TIMES * usual_ns)
        self._patience_ns = max(_PATIENCE_NS, SPIN_TIMES * usual_ns)
        self._strikes, self._spins = 0, 0
        self._tell_at = 0
        self.p99_s = p99_s
        self.misbehaved = ""

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        if self._spins >= _SPINS:
            raise RefusedCallError(self.misbehaved)
        loaded, guard, times = self.loaded, self._guard, self.times
        began = perf_counter_ns()
        try:
            guard.arm(self._spin_ns, min(max(left_ns // 2, min(left_ns, self._enough_ns)), self._patience_ns))
            try:
                rows = loaded.builder.build_rows(
                    RequestArrays(request.length, request.columns), found.views, found.known
                )
                features = found.features = loaded.features_of(rows)
                between = perf_counter_ns()
                scores = loaded.scores_of(features)
            finally:
                guard.disarm()
        except CpuBudgetError:
            guard.disarm()  # the alarm may have come while it was being switched off
            self._judge_ended_call(perf_counter_ns() - began)
            raise TooLate(self.misbehaved) from None
        except (Exception, SystemExit, CancelledError) as error:  # the latter two would end the reader, or its answer
            self._log_failure(error)
            raise ModelCallError(str(error)) from error
        self._strikes = 0
        times.transform, times.model = between - began, perf_counter_ns() - between
        return scores if scores.dtype.kind == "f" else scores.astype(np.float64)

    def _log_failure(self, error: BaseException) -> None:
        """Log a failure, at most once in ten seconds."""
        now = perf_counter_ns()
        if now >= self._tell_at:
            self._tell_at = now + _TELL_EVERY_NS
            logger.error("The model of %s failed: %s: %s", self.loaded.release.name, type(error).__name__, error)

    def _judge_ended_call(self, took_ns: int) -> None:
        """Count an interrupted call as spinning if it used too much CPU time.

        Others slept, got no core or had too little time left, which alone says nothing about the model.
        """
        used_ns = self._guard.used_ns
        self._strikes += took_ns >= self._enough_ns
        least_ns = max(self._enough_ns, _SPUN_NS, _SPUN_SHARE * took_ns)
        self._spins += used_ns >= self._spin_ns or used_ns > least_ns
        if (self._spins or self._strikes >= _STRIKES) and not self.misbehaved:
            release = self.loaded.release
            self.misbehaved = f"a call worked {used_ns / 1e6:.1f} of {took_ns / 1e6:.1f} ms and was ended"
            logger.error("%s release %d leaves the event loop: %s.", release.name, release.number, self.misbehaved)

    def expected_s(self) -> float:
        return self.p99_s
