"""Describe the newest rollout of a model's releases for the status of a reader."""

from typing import Any

from forecache.errors import ForecacheError
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.rollout.state import read_rollout


def described(folder: ReleaseFolder) -> dict[str, Any] | None:
    """Describe the newest rollout for the status of a reader; None if there was none or its state cannot be read.

    The reader logs a state that cannot be read, and answers as if there were no rollout.
    """
    try:
        state = read_rollout(folder)
    except (ForecacheError, OSError):
        return None
    if state is None:
        return None
    return {
        "release": state.release,
        "current": state.current,
        "stage": state.stage,
        "share": state.share,
        "paused": state.paused,
        "started_at": state.started_at,
        "looked_at": state.looked_at,
        "requests": list(state.step.requests) if state.steps else [0, 0],
        "why": state.why,
    }
