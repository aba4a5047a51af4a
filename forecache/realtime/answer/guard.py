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


class Spun(BaseException):
    """Code ran for longer than it may. Not an `Exception`, so that code which catches those does not go on."""


class Guard:
    """Ends guarded code that takes too long, on the main thread of a process; elsewhere it guards nothing.

    A thread that another process keeps from the processor does nothing wrong: what counts is the time that the code has
    spent on it. Code that neither works nor returns is ended when it has no time left.

    Attributes:
        used_ns: How long the code that was ended last had worked.
    """

    def __init__(self) -> None:
        self.used_ns = 0
        self._is_armed = False
        self._cpu_ns, self._cpu_until, self._until = 0, 0, 0
        self.works = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
        if self.works:
            signal.signal(signal.SIGALRM, self._ring)

    def arm(self, cpu_ns: int, left_ns: int) -> None:
        """Raise `Spun` in this thread, unless `disarm` is called first.

        Args:
            cpu_ns: After it has worked for so long.
            left_ns: At the latest after so long.
        """
        if self.works:
            self._cpu_ns, self._cpu_until = cpu_ns, thread_time_ns() + cpu_ns
            self._until = perf_counter_ns() + left_ns
            self._is_armed = True
            every_s = max(min(cpu_ns, left_ns), _LEAST_NS) / 1e9
            signal.setitimer(signal.ITIMER_REAL, every_s, every_s)

    def disarm(self) -> None:
        # The flag comes first: an alarm between the two calls must not end code that is not guarded.
        self._is_armed = False
        if self.works:
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._is_armed:
            used = self._cpu_ns - (self._cpu_until - thread_time_ns())
            if used >= self._cpu_ns or perf_counter_ns() >= self._until:
                self.used_ns = used
                # What catches it gets time to call `disarm`; a loop that catches everything gets the next one.
                self._cpu_until += _AGAIN_NS
                self._until += _AGAIN_NS
                raise Spun
