"""Waiting for the live layer before the pointer moves, so that no reader here sees a key go back.

The workers of a reader take up a new version one after the other. One that has it knows the stream up to its cut. So
the live layer, by which the others know it, has to be as far; and it must still hold what an older version lacks.
"""

import os
import time

from forecache.files import try_lock
from forecache.store.layout import Layout
from forecache.store.live.locking import LIVE
from forecache.store.live.reader import LiveReader

_LONGEST_S = 15.0
_PAUSE_S = 0.02


def wait_until_applied(layout: Layout, cut: int, *, longest_s: float = _LONGEST_S) -> bool:
    """Wait, before the pointer moves to a version, until the live layer has applied the version's cut-off.

    The workers of a reader swap in a new version one after the other. One that has it knows the stream up to the
    cut-off, so the live layer must be as far for the others, or a key would go back to an older row between two
    requests. The layer must also still have the rows that an older version lacks.

    Returns:
        Whether it has. False: no tailer runs on this machine, or it is too slow; then a key may go back for a moment.
    """
    if cut < 0 or not layout.live.exists():
        return True
    give_up = time.monotonic() + longest_s
    with LiveReader(layout) as reader:
        while not (reader.applied >= cut >= reader.floor):
            if not is_followed(layout) or time.monotonic() > give_up:
                return False
            time.sleep(_PAUSE_S)
            reader.follow()
    return True


def is_followed(layout: Layout) -> bool:
    """Return whether a process of this machine writes the live layer of a store."""
    try:
        descriptor = os.open(layout.streamed / f"{LIVE}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)
