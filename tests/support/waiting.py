"""Threads beside a test, and waiting for what another process or thread brings about."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_Found = TypeVar("_Found")
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


@contextmanager
def beside(run: Callable[[threading.Event], object]) -> Iterator[None]:
    """Have `run` work in a thread while the block runs; it ends once the event that it is given is set."""
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
