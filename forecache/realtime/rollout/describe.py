"""The newest rollout of a model's releases, as the status of a reader shows it."""

from typing import Any

from forecache.errors import ForecacheError
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.rollout.state import read_rollout


def described(folder: ReleaseFolder) -> dict[str, Any] | None:
    """Candidate, stage, share of keys and why; None where there was no rollout, or its state cannot be read.

    A state that cannot be read is in the log of the reader, which answers as if there were none.
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
