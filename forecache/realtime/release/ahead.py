"""Which of the two is ahead, a home or a remote, and which home pushed last."""

from contextlib import suppress
from dataclasses import replace

from forecache.errors import ConflictError, DamagedError
from forecache.folders import Folder
from forecache.realtime.release.claim import home_of
from forecache.realtime.release.folder import (
    ReleaseFolder,
    ReleasePointer,
    pointer_from_json,
    pointer_to_json,
    read_current,
)
from forecache.realtime.release.here import REALTIME
from forecache.realtime.release.remote_rollout import moves, remote_rollout
from forecache.realtime.rollout.state import RolloutState, read_rollout


class AheadError(ConflictError):
    """The home that releases a model has what the remote has not, which a pull would take back."""


def as_pushed(folder: ReleaseFolder, pointer: ReleasePointer) -> bytes:
    """The pointer as it is on a remote."""
    return pointer_to_json(replace(pointer, home=home_of(folder)))


def pushed_last_from(folder: ReleaseFolder, remote: Folder) -> bool:
    """Whether it was this home that pushed last: what is here then goes on from what the remote has."""
    target = f"{REALTIME}/{folder.name}/CURRENT"
    seen = remote.read(target)
    home = "" if seen is None else pointer_from_json(seen[0], what=f"The remote's {target}").home
    return home != "" and home == home_of(folder)


def is_behind(folder: ReleaseFolder, remote: Folder) -> bool:
    """Whether a remote has another pointer than is here, or the rollout at another step."""
    root = f"{REALTIME}/{folder.name}"
    seen, rollout = remote.read(f"{root}/CURRENT"), read_rollout(folder)
    if seen is None or seen[0] != as_pushed(folder, read_current(folder)):
        return True
    theirs = remote_rollout(folder, remote)
    return rollout is not None and (theirs is None or moves(theirs) != moves(rollout))


def takes_back(
    folder: ReleaseFolder, before: ReleasePointer, theirs: ReleasePointer, rollout: RolloutState | None
) -> bool:
    """Whether a pull would undo what the home that releases a model has done since it pushed.

    To pull what another home has pushed always would. To pull what this home has pushed would not where that is newer
    than what is here, as after the store folder was restored from a backup.

    Args:
        before: The pointer here.
        theirs, rollout: On the remote.
    """
    home = home_of(folder)
    if before.current is None:
        return False
    if theirs.home != home:
        return True
    is_same = (theirs.current, theirs.bad) == (before.current, before.bad)
    if not is_same and theirs.generation <= before.generation:
        return True
    here = rollout_here(folder)
    if here is None or here.home != home:
        return False
    if rollout is None:
        return True
    if moves(rollout) == moves(here):
        return False
    if rollout.started_at != here.started_at:
        return rollout.started_at < here.started_at
    return rollout.home != home or rollout.generation < here.generation


def rollout_here(folder: ReleaseFolder) -> RolloutState | None:
    """The state of the newest rollout, None also where it is damaged and can only be replaced."""
    with suppress(DamagedError):
        return read_rollout(folder)
    return None


def ahead(name: str) -> AheadError:
    """The error where a pull would take something back."""
    return AheadError(
        f"This home releases {name}, and the remote does not have what was last done here, so nothing of it was "
        "pulled.",
        remedy=f"`forecache push {name}` brings it to the remote.",
    )
