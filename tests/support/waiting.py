"""Waiting for what another process or thread brings about."""

import time
from collections.abc import Callable
from typing import TypeVar

_Found = TypeVar("_Found")
_LOOK_S = 0.02


def wait_for(look: Callable[[], _Found], *, seconds: float = 30.0) -> _Found:
    """Look again and again until what is found is true; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"it has not come to that within {seconds:g} s"
        time.sleep(_LOOK_S)
    return found
