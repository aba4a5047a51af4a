"""Threads that do something periodically or as it is handed to them, and the growing pauses after failures."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from forecache.base.errors import ForecacheError
from forecache.kit.process.wakes import Wake

logger = logging.getLogger("forecache")
T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts: twice as long after each failure in a row, from `first_s` up to `longest_s`."""

    first_s: float
    longest_s: float = float("inf")

    def pause_s(self, failures: int) -> float:
        """Pause after so many failures in a row, at least one."""
        return min(self.first_s * 2.0 ** min(failures - 1, 64), self.longest_s)


class RetryPauses:
    """For each of several things that can fail, the pause before it is tried again."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures: dict[str, tuple[int, float]] = {}

    def note_failure(self, name: str) -> None:
        """Begin a pause, which is longer after each failure in a row."""
        failures = self._failures.get(name, (0, 0.0))[0] + 1
        self._failures[name] = failures, time.monotonic() + self._backoff.pause_s(failures)

    def note_success(self, name: str) -> None:
        self._failures.pop(name, None)

    def is_waiting(self, name: str) -> bool:
        return time.monotonic() < self._failures.get(name, (0, 0.0))[1]


class PeriodicThread:
    """A thread that calls a function periodically until it is closed; a context manager.

    A call that fails is repeated after a pause. The failure is reported once, until it changes or a call succeeds.
    `failure` says why the last call failed ("" if it did not), and `stopping` is set once the thread is to end.

    Args:
        work: Called in the thread. It may run for long, such as while a child process lives.
        every_s: Returns the seconds from the end of a call to the next; None: the period of `wake`.
        at_once: Make the first call at the start, not after a period.
        backoff: Pauses after failures; None: the period.
        report: Called in the thread with a new failure; None: log it.
        close_s: Longest time that `close` waits for a running call; None: until it ends.
    """

    def __init__(
        self,
        wake: Wake,
        work: Callable[[], object],
        *,
        every_s: Callable[[], float] | None = None,
        at_once: bool = False,
        backoff: Backoff | None = None,
        report: Callable[[Exception], None] | None = None,
        close_s: float | None = None,
    ) -> None:
        self._wake, self._work, self._at_once, self._backoff = wake, work, at_once, backoff
        self._every_s = every_s or (lambda: wake.every_s)
        self._report, self._close_s = report or self._log_failure, close_s
        self.failure, self.failures = "", 0
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"forecache-{wake.name}", daemon=True)

    def start(self) -> "PeriodicThread":
        self._thread.start()
        return self

    def note_success(self) -> None:
        """Forget earlier failures, as after a call that succeeded; for work that runs for long."""
        self.failure, self.failures = "", 0

    def close(self) -> None:
        """End the thread after the running call, and wait for that."""
        self.stopping.set()
        if self._thread.ident is not None:
            self._thread.join(self._close_s)

    def __enter__(self) -> "PeriodicThread":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        pause_s = 0.0 if self._at_once else self._every_s()
        while not self.stopping.wait(pause_s):
            try:
                self._work()
                self.note_success()
                pause_s = self._every_s()
            except Exception as error:  # noqa: BLE001  # the thread outlives it
                self._note_failure(error)
                pause_s = self._every_s() if self._backoff is None else self._backoff.pause_s(self.failures)

    def _note_failure(self, error: Exception) -> None:
        before, self.failure = self.failure, str(error) or repr(error)
        self.failures += 1
        if self.failure != before and not self.stopping.is_set():
            self._report(error)

    def _log_failure(self, error: Exception) -> None:
        trace = None if isinstance(error, (ForecacheError, OSError)) else error
        logger.error("%s failed, and is tried again: %s", self._wake.purpose, self.failure, exc_info=trace)


class HandoverThread(ABC, Generic[T]):
    """A thread that is handed one piece of work at a time. `failure` says why that is not done yet; "" if none failed.

    A subclass sets its own attributes before it calls `__init__`, which starts the thread.
    """

    def __init__(self, name: str) -> None:
        self.failure = ""
        self.error: BaseException | None = None  # that ended the thread
        self._given: T | None = None
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_free(self) -> bool:
        """True if all work that was handed over is done."""
        return self._given is None

    def submit(self, work: T) -> None:
        """Hand over a piece of work; only allowed while `is_free`."""
        with self._changed:
            assert self._given is None, "one at a time"
            self._given = work
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is free or has ended; return False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._given is None or self.error is not None, timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Tell the thread to end, and wait for that."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    @abstractmethod
    def _run(self) -> None:
        """Do what is given until `_closing`."""

    def _set_free(self) -> None:
        with self._changed:
            self._given = None
            self._changed.notify_all()

    def _pause(self, seconds: float, *, until_given: bool = False) -> bool:
        """Pause, or until there is work; return True if the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or (until_given and self._given is not None), seconds)
        return self._closing
