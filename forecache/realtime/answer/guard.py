"""An alarm that ends Python code on the event loop's thread which does not return.

The alarm interrupts Python code, between two of its instructions. It does not end a call into a library that keeps
running: only models that run in a bounded time are asked on the loop, and what is measured decides which those are.
"""

import signal
import threading
from types import FrameType


class Spun(BaseException):
    """Code ran for longer than it may. Not an `Exception`, so that code which catches those does not go on."""


class Guard:
    """Ends guarded code that takes too long, on the main thread of a process; elsewhere it guards nothing."""

    def __init__(self) -> None:
        self._is_armed = False
        self.works = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
        if self.works:
            signal.signal(signal.SIGALRM, self._ring)

    def arm(self, seconds: float) -> None:
        """Raise `Spun` in this thread after a time, and again and again, unless `disarm` is called first."""
        if self.works:
            self._is_armed = True
            signal.setitimer(signal.ITIMER_REAL, seconds, seconds)

    def disarm(self) -> None:
        # The flag comes first: an alarm between the two calls must not end code that is not guarded.
        self._is_armed = False
        if self.works:
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._is_armed:
            raise Spun
