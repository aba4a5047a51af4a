"""An alarm that ends Python code on the event loop's thread which does not return.

The alarm interrupts Python code, between two of its instructions. It does not end a call into a library that keeps
running: only models that run in a bounded time are asked on the loop, and what is measured decides which those are.
"""

import signal
import threading
from time import perf_counter_ns, thread_time_ns
from types import FrameType

_LEAST_NS = 200_000
_AGAIN_NS = 20_000_000
_UNKNOWN = -1
_IDLE_NS = 100_000_000
"""The alarm rings on for so long after the last call: to switch it on and off costs more than the shortest call."""


class Spun(BaseException):
    """Code ran for longer than it may. Not an `Exception`, so that code which catches those does not go on."""


class Guard:
    """Ends guarded code that takes too long, on the main thread of a process; elsewhere it guards nothing.

    A thread that another process keeps from the processor does nothing wrong: what counts is the time that the code has
    spent on it. Code that neither works nor returns is ended when it has no time left.

    Attributes:
        used_ns: How long the code that was ended last had worked, from the alarm's first ring in it on.
    """

    def __init__(self) -> None:
        self.used_ns = 0
        self._is_armed = False
        self._cpu_ns, self._cpu_from, self._until = 0, 0, 0
        self._every_ns, self._armed_at = 0, 0
        self.works = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
        if self.works:
            signal.signal(signal.SIGALRM, self._ring)

    def arm(self, cpu_ns: int, left_ns: int) -> None:
        """Raise `Spun` in this thread, unless `disarm` is called first.

        Args:
            cpu_ns: After it has worked for so long, and for half of it more at most.
            left_ns: After so long, and half of it more at most.
        """
        if not self.works:
            return
        every_ns = min(cpu_ns, left_ns) // 2
        if not self._every_ns or every_ns < self._every_ns > _LEAST_NS:
            self._ring_every(max(every_ns, _LEAST_NS))
        self._cpu_ns, self._cpu_from = cpu_ns, _UNKNOWN
        self._armed_at = now = perf_counter_ns()
        self._until = now + left_ns
        self._is_armed = True

    def disarm(self) -> None:
        self._is_armed = False

    def close(self) -> None:
        """Let the alarm ring no more."""
        self._is_armed = False
        if self._every_ns:
            self._ring_every(0)

    def _ring_every(self, every_ns: int) -> None:
        self._every_ns = every_ns
        signal.setitimer(signal.ITIMER_REAL, every_ns / 1e9, every_ns / 1e9)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        now = perf_counter_ns()
        if not self._is_armed:
            if now - self._armed_at > _IDLE_NS and self._every_ns:
                self._ring_every(0)
            return
        cpu = thread_time_ns()
        if self._cpu_from == _UNKNOWN:
            self._cpu_from = cpu
        used = cpu - self._cpu_from
        if used >= self._cpu_ns or now >= self._until:
            self.used_ns = used
            # What catches it gets time to call `disarm`; a loop that catches everything gets the next one.
            self._cpu_from += _AGAIN_NS
            self._until = now + _AGAIN_NS
            raise Spun
