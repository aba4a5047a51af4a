"""Warm a release before it answers, and measure how long its transform and model take, with recorded requests."""

import ctypes
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from time import perf_counter_ns, sleep, thread_time_ns, time

import numpy as np

from forecache.declare.realtime.request_rows import RequestArrays
from forecache.kit.http.problems import Problem
from forecache.realtime.answer.in_loop import CpuBudgetError
from forecache.realtime.lookups import ViewLookups
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.model_path import NoScores
from forecache.realtime.request.request_answer import LookupResult, ParsedRequest
from forecache.realtime.request.request_parser import RequestParser
from forecache.serve.reader.versions.answers import VersionAnswers

logger = logging.getLogger("forecache.realtime")
CALLS, ENOUGH_NS = 300, 500_000_000
"""Most calls of a calibration, and the time after which it ends."""
_PATIENCE_S, _PAUSE_S = 5.0, 0.001


def measure_p99_s(calls: Sequence[Callable[[], object]]) -> float:
    """Measure the 99th percentile of the time of a call, in seconds; infinity if a call hangs or fails.

    It is measured on a separate thread, which is interrupted if it does not end. The result is the larger of the 99th
    percentile of CPU time, so that a busy machine does not make a model look slow, and the median of wall-clock time,
    so that a model that sleeps does not look fast.
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
