"""Threads beside a test, and waiting for what another process or thread brings about."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_Found = TypeVar("_Found")
_LOOK_S = 0.02


def wait_for(look: Callable[[], _Found], *, seconds: float = 120.0) -> _Found:
    """Look again and again until what is found is true; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"it has not come to that within {seconds:g} s"
        time.sleep(_LOOK_S)
    return found


def eventually(holds: Callable[[], bool], limit_s: float = 120.0) -> bool:
    """Look again and again until `holds` returns true; returns False if it has not within the time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(_LOOK_S)
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
