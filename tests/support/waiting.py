"""Threads beside a test, and waiting for what another process or thread brings about."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

_Found = TypeVar("_Found")
_Threads = TypeVar("_Threads", bound="ThreadsBeside")
_LOOK_S = 0.02
_SHARE = 0.2
_MOST_S = 0.5


def _pause(began: float) -> None:
    """Wait before the next look, for longer after one that took long: looks at a lake cost more CPU than streams do."""
    took = time.monotonic() - began
    time.sleep(max(_LOOK_S, min(took / _SHARE - took, _MOST_S)))


def wait_for(look: Callable[[], _Found], *, seconds: float = 120.0) -> _Found:
    """Look again and again until what is found is true; returns it."""
    deadline = (began := time.monotonic()) + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"it has not come to that within {seconds:g} s"
        _pause(began)
        began = time.monotonic()
    return found


def eventually(holds: Callable[[], bool], limit_s: float = 120.0) -> bool:
    """Look again and again until `holds` returns true; returns False if it has not within the time."""
    deadline = time.monotonic() + limit_s
    while (began := time.monotonic()) < deadline:
        if holds():
            return True
        _pause(began)
    return holds()  # a machine that stalls may leave no time for another look


class ThreadsBeside:
    """Threads that work while a block runs, each until `stop` is set; an error that has ended one is raised at its end.

    A test that only waits for what they do would else end by a time that has run out, without a reason.
    """

    def __init__(self, *runs: Callable[[], object]) -> None:
        self.stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._note_error, args=(run,), daemon=True) for run in runs]

    def __enter__(self: _Threads) -> _Threads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _note_error(self, run: Callable[[], object]) -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001  (raised where the block ends)
            self._errors.append(error)


@contextmanager
def beside(run: Callable[[threading.Event], object]) -> Iterator[None]:
    """Have `run` work in a thread while the block runs; it ends once the event that it is given is set."""
    threads = ThreadsBeside(lambda: run(threads.stop))
    with threads:
        yield
