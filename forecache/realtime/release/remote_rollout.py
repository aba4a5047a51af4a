"""The state of a rollout on a remote: replicas that pull it do what the home that releases does."""

import logging

from forecache.errors import DamagedError
from forecache.folders import Folder
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.release.here import REALTIME
from forecache.realtime.rollout.state import RolloutState, rollout_from_json, rollout_to_json

logger = logging.getLogger("forecache.realtime")


def push_rollout(remote: Folder, target: str, state: RolloutState) -> None:
    """Bring a remote the state of a rollout where replicas would do something else by it."""
    there = remote.read(target)
    theirs = None if there is None else _readable(there[0], target)  # what nobody can read is replaced
    if theirs is not None:
        if theirs.started_at > state.started_at:
            logger.warning(
                "The remote has a later rollout of %s, of release %d, than this home has; it stays there. If another "
                "home began it: release %s from one home only, and pull it into the others.",
                state.name, theirs.release, state.name,
            )  # fmt: skip
        # A home that took the rollout over counts its generations from what it pulled.
        is_known = theirs.home == state.home and state.generation <= theirs.generation
        is_older = state.started_at < theirs.started_at or (state.started_at == theirs.started_at and is_known)
        if is_older or moves(theirs) == moves(state):
            return
    # Where another process was faster, that one had a newer state, or the next look pushes again.
    remote.swap(target, rollout_to_json(state), there[1] if there else None)


def remote_rollout(folder: ReleaseFolder, remote: Folder) -> RolloutState | None:
    """The state of the newest rollout that a remote has; None also where it cannot be read here."""
    target = f"{REALTIME}/{folder.name}/ROLLOUT"
    there = remote.read(target)
    return None if there is None else _readable(there[0], target)


def _readable(content: bytes, target: str) -> RolloutState | None:
    """A rollout that is damaged, or of another Forecache, keeps no release from being pushed or pulled."""
    try:
        return rollout_from_json(content, what=f"The remote's {target}")
    except DamagedError as error:
        logger.warning("%s The current release goes on answering.", error.message)
        return None


def moves(state: RolloutState) -> tuple[object, ...]:
    """What replicas go by; the home is what keeps their controllers from it."""
    return (state.release, state.started_at, state.stage, state.share, state.paused, state.is_bad, state.home)
