"""Measure how long transform and model take, with recorded requests, before the first real one."""

import ctypes
import logging
import threading
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter_ns, sleep, thread_time_ns

from forecache.realtime.answer.cpu_guard import CpuBudgetError

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
