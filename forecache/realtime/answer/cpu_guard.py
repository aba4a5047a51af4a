"""A CPU-time alarm that interrupts Python code on the event loop's thread if it does not return.

The alarm interrupts Python code between two instructions. It cannot end a long call into a library; therefore only
models whose measured time is bounded run on the loop.
"""

import signal
import threading
from time import perf_counter_ns, thread_time_ns
from types import FrameType

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

    The alarm is not switched off after a call: when it fires, it checks the call that is running then, if any.
    Setting the alarm costs as much as a look-up, and firing costs more, since it wakes the loop.

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
        signal.setitimer(signal.ITIMER_REAL, after_ns / 1e9)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        now = perf_counter_ns()
        self._rings_at = 0
        if not self._is_armed:
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
