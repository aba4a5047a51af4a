"""Follow versioned folders in one worker: load what a pointer names aside, swap it in, retire what it replaces.

A `Watcher` polls; each poll calls `VersionFollower.follow`, which calls for each folder a function that loads and warms
the version that the pointer names and gives it to `VersionFollower.swap`.
"""

from collections.abc import Callable, Iterable
from logging import Logger
from time import monotonic
from typing import Generic, NamedTuple, TypeVar

from forecache.kit.process.periodic import Backoff
from forecache.serve.reader.versions.watcher import RunOnLoop, classify_failure

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

    Attributes:
        failures: Names whose current version cannot be served, and why; an earlier one may still be.

    Args:
        noun: The word for a version in the log.
        count_failure: Counts a failure of a name that differs from its last one.
        generation_of: Returns the generation of a name's pointer. As long as it stays the same after a failure, there
            are pauses between the tries, each twice as long as the last: for versions whose loading takes time from the
            answers. None: failed names are tried at every poll.
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
        self.failures: dict[str, str] = {}
        self.retired = RetiredParts()
        self._logger, self._noun, self._count_failure = logger, noun, count_failure
        self._generation_of = generation_of
        self._pauses: dict[str, _Pause] = {}

    def follow(self, names: Iterable[str], serve: Callable[[str], bool]) -> None:
        """Serve the current version of each name, unless it failed just now; then close what is due.

        Args:
            serve: Serves the current version of a name unless it is served already. Returns whether it is; if it
                raises, the error is recorded, and logged once.
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
