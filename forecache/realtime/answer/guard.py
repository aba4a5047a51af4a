"""An alarm that ends Python code on the event loop's thread which does not return.

The alarm interrupts Python code, between two of its instructions. It does not end a call into a library that keeps
running: only models that run in a bounded time are asked on the loop, and what is measured decides which those are.
"""

import signal
import threading
from time import perf_counter_ns, thread_time_ns
from types import FrameType

_LEAST_NS = 200_000
"""The alarm is never set for less than this."""
_LOOK_NS = 10_000_000
"""A call that goes on is looked at after so long at the latest; one that may work longer than this, after that time."""
_AGAIN_NS = 20_000_000
_UNKNOWN = -1


class Spun(BaseException):
    """Code ran for longer than it may. Not an `Exception`, so that code which catches those does not go on."""


class Guard:
    """Ends guarded code that takes too long, on the main thread of a process; elsewhere it guards nothing.

    The alarm is not switched off after a call: when it rings, it looks at the call that goes on then, if there is one.
    To set it costs as much as a look-up does, and a ring costs more, since it wakes the loop.

    A thread that another process keeps from the processor does nothing wrong: what counts is the time that the code has
    spent on it. Code that neither works nor returns is ended when it has no time left.

    Attributes:
        used_ns: How long the code that was ended last had worked, from the alarm's first ring in it on.
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
        """Raise `Spun` in this thread, unless `disarm` is called first.

        Args:
            cpu_ns: After it has worked for so long, or up to 10 ms longer.
            left_ns: At the latest after so long.
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
            # What catches it gets time to call `disarm`; a loop that catches everything gets the next one.
            self._cpu_from += _AGAIN_NS
            self._until = now + _AGAIN_NS
            self._ring_in(_AGAIN_NS, now)
            raise Spun
        self._ring_in(min(self._cpu_ns - used, self._until - now, _LOOK_NS), now)
