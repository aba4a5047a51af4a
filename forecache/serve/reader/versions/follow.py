"""A thread that polls the store and runs the resulting changes on the event loop; its failures are logged once."""

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from logging import Logger
from time import monotonic
from typing import Generic, NamedTuple, TypeVar

from forecache.base.errors import ForecacheError, chain_of
from forecache.kit.process.periodic import Backoff

_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


class Failure(NamedTuple):
    """An error as it is logged."""

    reason: str  # equal as long as the same problem persists, so that it is logged once
    text: str
    trace: Exception | None  # the error, if it is a defect


def classify_failure(error: Exception) -> Failure:
    """Classify an error. Without free file descriptors each try fails at another file or import: that is one reason."""
    if any(map(_is_out_of_files, chain_of(error))):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        text, remedy = "Too many open files: this process may have", "raise that, or allow fewer connections."
        return Failure("Too many open files", f"{text} {most} (`ulimit -n`); {remedy}", None)
    expected = isinstance(error, (ForecacheError, OSError))
    return Failure(f"{type(error).__name__}: {error}", str(error) or repr(error), None if expected else error)


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

    The thread survives whatever a call raises. A failure is logged once, until it changes or the call succeeds. `beat`
    records that the worker is alive; `others` are called after each poll, from the first successful one on.

    After that one, all objects are kept out of later garbage collections: requests wait while one looks at them.
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
        self._has_polled, self._is_frozen, self._polled_s = False, False, time.monotonic()
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
            if self._has_polled and not self._is_frozen:
                gc.freeze()
                self._is_frozen = True  # `gc.get_freeze_count()` goes through all objects
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


T = TypeVar("T")
_BACKOFF = Backoff(1.0, 30.0)


class RetiredParts:
    """Replaced parts of a worker, which are closed after a while: running requests may still use them."""

    def __init__(self) -> None:
        self._parts: list[tuple[float, Callable[[], None]]] = []

    def add(self, close: Callable[[], None], *, stay_s: float) -> None:
        """Have `close` called by the first `close_due` after `stay_s` seconds."""
        self._parts.append((monotonic() + stay_s, close))

    def close_due(self) -> None:
        self._close_before(monotonic())

    def close_all(self) -> None:
        self._close_before(float("inf"))

    def _close_before(self, time: float) -> None:
        due = [close for until, close in self._parts if until <= time]
        self._parts = [each for each in self._parts if each[0] > time]
        for close in due:
            close()


class _Pause(NamedTuple):
    generation: int
    failures: int
    until: float


class VersionFollower(Generic[T]):
    """The served versions of some folders, by name.

    Only the event loop's thread changes `served`, and handlers never wait while they use an entry; the watching thread
    calls everything else. So once a swap has run on the loop, no new request uses what it replaced.

    `generation_of` is given for versions whose loading takes time from the answers: while a name's pointer keeps its
    generation after a failure, the pauses between the tries double. Without it, each poll tries. `count_failure` is
    called for a failure of a name that differs from its last one.
    """

    def __init__(
        self,
        logger: Logger,
        *,
        noun: str,
        count_failure: Callable[[str], None],
        generation_of: Callable[[str], int] | None = None,
    ) -> None:
        self.served: dict[str, T] = {}
        self.failures: dict[str, str] = {}  # why a current version is not served; an earlier one may be
        self.retired = RetiredParts()
        self._logger, self._noun, self._count_failure = logger, noun, count_failure
        self._generation_of = generation_of
        self._pauses: dict[str, _Pause] = {}

    def follow(self, names: Iterable[str], serve: Callable[[str], bool]) -> None:
        """Serve the current version of each name, unless it failed just now; then close what is due.

        `serve` returns whether the name is served; if it raises, the error is recorded, and logged once.
        """
        for name in sorted(names):
            try:
                if not self.is_paused(name) and serve(name):
                    self.clear_failure(name)
            except Exception as error:  # noqa: BLE001  # the watcher outlives a broken version, and logs it
                self.record_failure(name, error)
        self.retired.close_due()

    def swap(self, name: str, new: T | None, run_on_loop: RunOnLoop) -> T | None:
        """Serve another version of a name, None: none; returns the one that was served."""
        old = self.served.get(name)
        run_on_loop(lambda: self.install(name, new))
        return old

    def install(self, name: str, new: T | None) -> None:
        """Put a version in place; on the event loop's thread, or before it runs."""
        if new is None:
            self.served.pop(name, None)
        else:
            self.served[name] = new

    def is_paused(self, name: str) -> bool:
        """Return whether a name failed just now and its pointer has not moved since."""
        pause = self._pauses.get(name)
        return pause is not None and monotonic() < pause.until and self.has_failed(name)

    def has_failed(self, name: str) -> bool:
        """Return whether the version that the pointer names was tried and cannot be served."""
        pause = self._pauses.get(name)
        return pause is not None and self._generation_of is not None and self._generation_of(name) == pause.generation

    def record_failure(self, name: str, error: Exception) -> None:
        if self._generation_of is not None:
            generation, before = self._generation_of(name), self._pauses.get(name)
            failures = 1 + (before.failures if before is not None and before.generation == generation else 0)
            self._pauses[name] = _Pause(generation, failures, monotonic() + _BACKOFF.pause_s(failures))
        found = classify_failure(error)
        if self.failures.get(name) != found.reason:
            self._count_failure(name)
            text = f"The current {self._noun} of %s cannot be served: %s"
            self._logger.error(text, name, found.text, exc_info=found.trace)
        self.failures[name] = found.reason

    def clear_failure(self, name: str) -> None:
        self.failures.pop(name, None)
        self._pauses.pop(name, None)
