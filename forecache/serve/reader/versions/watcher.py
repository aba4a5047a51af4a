"""A thread that polls the store and runs the resulting changes on the event loop; its failures are logged once."""

import asyncio
import errno
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from forecache.base.errors import ForecacheError

_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


class Failure(NamedTuple):
    """An error as it is logged.

    Attributes:
        reason: Equal as long as the same problem persists, so that it is logged once.
        text: A sentence.
        trace: The error if its traceback is needed; None if it is no defect.
    """

    reason: str
    text: str
    trace: Exception | None


def classify_failure(error: Exception) -> Failure:
    """Classify an error. Without free file descriptors each try fails at another file or import: that is one reason."""
    if any(map(_is_out_of_files, _error_chain(error))):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        text = (
            f"Too many open files: this process may have {most} (`ulimit -n`); raise that, or allow fewer connections."
        )
        return Failure("Too many open files", text, None)
    expected = isinstance(error, (ForecacheError, OSError))
    return Failure(f"{type(error).__name__}: {error}", str(error) or repr(error), None if expected else error)


def _error_chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_out_of_files(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _OUT_OF_FILES
    return isinstance(error, ImportError) and any(os.strerror(number) in str(error) for number in _OUT_OF_FILES)


logger = logging.getLogger("forecache.reader")
POLL_S = 0.25
MOST_FAILING_S = 10.0
"""Polls may fail for so long, as with too many open files, before the reader reports that it is not ready."""
RunOnLoop = Callable[[Callable[[], None]], None]
"""Runs an action on the event loop's thread and waits until it is done."""
Follow = Callable[[RunOnLoop], None]
"""Looks for changes in the watching thread."""


class Watcher:
    """Polls the store a few times a second until it is closed; if the reader's main process is gone, the worker stops.

    The thread survives whatever a call raises. A failure is logged once, until it changes or the call succeeds.

    Args:
        loop: The event loop that answers.
        poll: Polls the store.
        beat: Records that this worker is alive.
        others: Called after each poll, from the first successful one on.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poll: Callable[[], None],
        beat: Callable[[], None],
        others: Sequence[Follow] = (),
    ) -> None:
        self._loop, self._poll, self._beat = loop, poll, beat
        self._others = [partial(each, self.run_on_loop) for each in others]
        self._parent = os.getppid()
        self._stop = threading.Event()
        self._failures: dict[Callable[[], None], str] = {}
        self._has_polled, self._polled_s = False, time.monotonic()
        self._thread = threading.Thread(target=self._run, name="forecache-swap", daemon=True)

    def start(self) -> None:
        self._call_logged(self._beat)
        self._thread.start()

    @property
    def is_polling(self) -> bool:
        """False once each poll of the last `MOST_FAILING_S` or more has failed."""
        return self._poll not in self._failures or time.monotonic() - self._polled_s < MOST_FAILING_S

    def run_on_loop(self, action: Callable[[], None]) -> None:
        """Run an action on the loop's thread and wait until it is done; raises what it raises."""
        done = threading.Event()
        raised: list[Exception] = []

        def run() -> None:
            try:
                action()
            except Exception as error:  # noqa: BLE001  # raised in the thread that waits
                raised.append(error)
            finally:
                done.set()

        self._loop.call_soon_threadsafe(run)
        while not done.wait(0.5) and not self._stop.is_set():
            pass
        if raised:
            raise raised[0]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            if self._call_logged(self._poll):
                self._has_polled, self._polled_s = True, time.monotonic()
            for each in self._others if self._has_polled else ():
                self._call_logged(each)
            if self._stop.wait(POLL_S):
                return
            self._call_logged(self._beat)
            if os.getppid() != self._parent:
                logger.error("The reader's main process is gone; this worker stops.")
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _call_logged(self, call: Callable[[], None]) -> bool:
        """Make a call, log its failure, and return whether it succeeded."""
        try:
            call()
        except Exception as error:  # the thread outlives it
            found = classify_failure(error)
            if self._failures.get(call) != found.reason:
                what = "Polling the store" if call is self._poll else "Work after a poll of the store"
                logger.error("%s fails, and is tried again: %s", what, found.text, exc_info=found.trace)
            self._failures[call] = found.reason
            return False
        self._failures.pop(call, "")
        return True
