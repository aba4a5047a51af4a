"""Run transform and model on the event loop's thread, for native models that take less than two milliseconds.

A CPU-time alarm interrupts Python code between two instructions. It cannot end a long call into a library; therefore
only models whose measured time is bounded run on the loop. Replays outside the request path run them on their own
thread by `DirectPath`, without limits.
"""

import ctypes
import logging
import signal
import threading
from asyncio import CancelledError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from time import perf_counter_ns, sleep, thread_time_ns, time
from types import FrameType

import numpy as np

from forecache.declare.realtime.request_rows import RequestArrays
from forecache.kit.http.problems import Problem
from forecache.kit.process.periodic import RareMessage
from forecache.realtime.lookups import ViewLookups
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.request_answer import (
    LookupResult,
    ModelCallError,
    NoScores,
    ParsedRequest,
    RefusedCallError,
    StageTimes,
    TooLate,
)
from forecache.realtime.request.request_parser import RequestParser
from forecache.serve.reader.versions.answers import VersionAnswers

_LEAST_NS = 200_000
"""Shortest time that the alarm is set for."""
_LOOK_NS = 10_000_000
"""A running call is checked after this time at the latest, or after its CPU budget if that is longer."""
_AGAIN_NS = 20_000_000
_UNKNOWN = -1


class CpuBudgetError(BaseException):
    """Code exceeded its CPU budget. Not an `Exception`, so that code that catches those is interrupted too."""


class CpuGuard:
    """Interrupts guarded code that takes too long, on the main thread of a process; on others it does nothing.

    The alarm is not switched off after a call: when it fires, it checks the call that is running then, if any, and is
    switched off if there is none. Setting the alarm costs as much as a look-up, and firing costs more, since it wakes
    the loop. It fires again by itself: a signal that comes just before a system call does not end that call's wait.

    CPU time counts, so that code is not blamed for other processes on its core. Code that neither works nor returns is
    interrupted when it has no time left.

    Attributes:
        used_ns: CPU time of the code that was interrupted last, counted from the alarm's first firing in it.
    """

    def __init__(self) -> None:
        self.used_ns = 0
        self._is_armed = False
        self._cpu_ns, self._cpu_from, self._until = 0, 0, 0
        self._rings_at = 0
        self.works = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
        if self.works:
            signal.signal(signal.SIGALRM, self._ring)

    def arm(self, cpu_ns: int, left_ns: int) -> None:
        """Raise `CpuBudgetError` in this thread, unless `disarm` is called first.

        Args:
            cpu_ns: CPU time after which it is raised, up to 10 ms later.
            left_ns: Wall-clock time after which it is raised at the latest.
        """
        if not self.works:
            return
        now = perf_counter_ns()
        self._cpu_ns, self._cpu_from, self._until = cpu_ns, _UNKNOWN, now + left_ns
        look_ns = min(max(cpu_ns, _LOOK_NS), left_ns // 2)
        self._is_armed = True
        if not now < self._rings_at <= now + look_ns:
            self._ring_in(look_ns, now)

    def disarm(self) -> None:
        self._is_armed = False

    def _ring_in(self, after_ns: int, now: int) -> None:
        after_ns = max(after_ns, _LEAST_NS)
        self._rings_at = now + after_ns
        signal.setitimer(signal.ITIMER_REAL, after_ns / 1e9, _AGAIN_NS / 1e9)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        now = perf_counter_ns()
        self._rings_at = 0
        if not self._is_armed:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            return
        cpu = thread_time_ns()
        if self._cpu_from == _UNKNOWN:
            self._cpu_from = cpu
        used = cpu - self._cpu_from
        if used >= self._cpu_ns or now >= self._until:
            self.used_ns = used
            # The handler gets time to call `disarm`; a loop that catches everything gets the next exception.
            self._cpu_from += _AGAIN_NS
            self._until = now + _AGAIN_NS
            self._ring_in(_AGAIN_NS, now)
            raise CpuBudgetError
        self._ring_in(min(self._cpu_ns - used, self._until - now, _LOOK_NS), now)


logger = logging.getLogger("forecache.realtime")
SPIN_TIMES, SPIN_LEAST_NS = 10, 5_000_000
"""CPU budget of a call: so many times the calibrated 99th percentile, at least so many nanoseconds."""
_PATIENCE_NS = 100_000_000
"""Longest wall-clock time of a call, as others wait behind it; also at most half of its time left, though twice the
usual time is always granted if so much is left."""
_SPUN_NS, _SPUN_SHARE = 1_000_000, 0.1
"""An interrupted call counts as spinning if its CPU time is at least this, twice the usual time, and this share of its
wall-clock time. Else it slept or waited for a core; the alarms that fire in a sleeping call use 1 % of the time."""
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
    """A `ModelPath` on this thread, guarded by a CPU budget; `misbehaved` says why the model must leave the loop."""

    def __init__(self, loaded: LoadedRelease, guard: CpuGuard, *, p99_s: float) -> None:
        super().__init__(loaded)
        self._guard = guard
        usual_ns = int(p99_s * 1e9)
        self._enough_ns = 2 * usual_ns
        self._spin_ns = max(SPIN_LEAST_NS, SPIN_TIMES * usual_ns)
        self._patience_ns = max(_PATIENCE_NS, SPIN_TIMES * usual_ns)
        self._strikes, self._spins = 0, 0
        self._failures = RareMessage()
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
            if self._failures.is_due():
                logger.error("The model of %s failed: %s: %s", loaded.release.name, type(error).__name__, error)
            raise ModelCallError(str(error)) from error
        self._strikes = 0
        times.transform, times.model = between - began, perf_counter_ns() - between
        return scores if scores.dtype.kind == "f" else scores.astype(np.float64)

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


CALLS, ENOUGH_NS = 300, 500_000_000
"""Most calls of a calibration, and the time after which it ends."""
_PATIENCE_S, _PAUSE_S = 5.0, 0.001


def measure_p99_s(calls: Sequence[Callable[[], object]]) -> float:
    """Measure the 99th percentile of the time of a call, in seconds; infinity if a call hangs or fails.

    The result is the larger of the 99th percentile of CPU time, so that a busy machine does not make a model look slow,
    and the median of wall-clock time, so that a model that sleeps does not look fast.
    """
    found = [float("inf")]

    def measure() -> None:
        try:
            found[0] = _time_calls_s(calls)
        except CpuBudgetError:
            logger.error("A warm-up request was not answered within %g s.", _PATIENCE_S)
        except Exception:
            logger.exception("A warm-up request failed.")

    thread = threading.Thread(target=measure, name="forecache-calibrate", daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(CpuBudgetError))
        thread.join(_PATIENCE_S)
    return found[0]


def _time_calls_s(calls: Sequence[Callable[[], object]]) -> float:
    for call in calls:
        call()
    clock, cpu = [], []
    end = perf_counter_ns() + ENOUGH_NS
    for turn in range(CALLS):
        began, spent = perf_counter_ns(), thread_time_ns()
        calls[turn % len(calls)]()
        cpu.append(thread_time_ns() - spent)
        clock.append(perf_counter_ns() - began)
        if perf_counter_ns() > end and turn >= len(calls):
            break
        sleep(_PAUSE_S)  # requests are answered meanwhile, on another thread of the same core
    return max(sorted(cpu)[len(cpu) * 99 // 100], median(clock)) / 1e9


def warm_and_measure_s(loaded: LoadedRelease, versions: Mapping[str, VersionAnswers]) -> float:
    """Warm a release; return the 99th percentile of transform and model, in seconds; infinity if they fail."""
    release = loaded.release
    parser = RequestParser(release)
    lookups = ViewLookups(release.lookups, versions, refuses=False)
    calls: list[Callable[[], object]] = []
    for body in loaded.warmup:
        try:
            request = parser.parse(body)
        except Problem:
            continue  # recorded for an earlier release, which took other requests
        if request.length:
            calls.append(partial(_score, loaded, request, _look_up(loaded, lookups, request)))
    return measure_p99_s(calls) if calls else 0.0


def _look_up(loaded: LoadedRelease, lookups: ViewLookups, request: ParsedRequest) -> LookupResult:
    try:
        if not lookups.is_remote():
            return lookups.read(request, time())
    except (NoScores, Problem):
        pass
    found = LookupResult()
    for each in loaded.release.lookups:
        found.views[each.called] = np.full((request.length, len(each.columns)), np.nan, np.float32)
        found.known[each.called] = np.zeros(request.length, np.bool_)
    return found


def _score(loaded: LoadedRelease, request: ParsedRequest, found: LookupResult) -> None:
    loaded.score(loaded.builder.build_rows(RequestArrays(request.length, request.columns), found.views, found.known))
