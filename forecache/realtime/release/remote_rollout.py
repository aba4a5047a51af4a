"""The state of a rollout on a remote: replicas pull it and split their traffic in the same way as the owner."""

import logging

from forecache.base.errors import DamagedError
from forecache.base.folders import Folder
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.release.released_models import REALTIME
from forecache.realtime.rollout.rollout_state import RolloutState, rollout_from_json, rollout_to_json

logger = logging.getLogger("forecache.realtime")


def push_rollout(remote: Folder, target: str, state: RolloutState) -> None:
    """Push the state of a rollout if it differs from the remote's in anything that replicas act on."""
    there = remote.read(target)
    theirs = None if there is None else _parse_rollout(there[0], target)  # an unreadable state is replaced
    if theirs is not None:
        if theirs.started_at > state.started_at:
            logger.warning(
                "The remote has a later rollout of %s, of release %d, than this home has; it stays there. If another "
                "home began it: release %s from one home only, and pull it into the others.",
                state.name, theirs.release, state.name,
            )  # fmt: skip
        # An installation that took the rollout over counts generations on from the state that it pulled.
        is_known = theirs.home == state.home and state.generation <= theirs.generation
        is_older = state.started_at < theirs.started_at or (state.started_at == theirs.started_at and is_known)
        if is_older or replicated_fields(theirs) == replicated_fields(state):
            return
    # If another process was faster, its state is newer, or the next check pushes again.
    remote.swap(target, rollout_to_json(state), there[1] if there else None)


def read_remote_rollout(folder: ReleaseFolder, remote: Folder) -> RolloutState | None:
    """Read the newest rollout of a remote; None if there is none or it cannot be read."""
    target = f"{REALTIME}/{folder.name}/ROLLOUT"
    there = remote.read(target)
    return None if there is None else _parse_rollout(there[0], target)


def _parse_rollout(content: bytes, target: str) -> RolloutState | None:
    """Decode a rollout; None if it is damaged or of another format, which must not block pushes and pulls."""
    try:
        return rollout_from_json(content, what=f"The remote's {target}")
    except DamagedError as error:
        logger.warning("%s The current release goes on answering.", error.message)
        return None


def replicated_fields(state: RolloutState) -> tuple[object, ...]:
    """Return the fields that replicas act on; the owner is one: other controllers leave the rollout alone."""
    return (state.release, state.started_at, state.stage, state.share, state.paused, state.is_bad, state.home)
