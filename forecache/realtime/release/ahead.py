"""Compare the releases of this installation with those of a remote: which one has changes that the other lacks.

"Home" in messages and in stored files is an installation.
"""

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
    """This installation owns the model and has changes that are not pushed; a pull would discard them."""


def as_pushed(folder: ReleaseFolder, pointer: ReleasePointer) -> bytes:
    """Encode the pointer as it is stored on a remote."""
    return pointer_to_json(replace(pointer, home=home_of(folder)))


def pushed_last_from(folder: ReleaseFolder, remote: Folder) -> bool:
    """Return True if this installation was the last to push, so the local state continues that of the remote."""
    target = f"{REALTIME}/{folder.name}/CURRENT"
    seen = remote.read(target)
    home = "" if seen is None else pointer_from_json(seen[0], what=f"The remote's {target}").home
    return home != "" and home == home_of(folder)


def is_behind(folder: ReleaseFolder, remote: Folder) -> bool:
    """Return True if the pointer or the step of the rollout on the remote differs from the local one."""
    root = f"{REALTIME}/{folder.name}"
    seen, rollout = remote.read(f"{root}/CURRENT"), read_rollout(folder)
    if seen is None or seen[0] != as_pushed(folder, read_current(folder)):
        return True
    theirs = remote_rollout(folder, remote)
    return rollout is not None and (theirs is None or moves(theirs) != moves(rollout))


def takes_back(
    folder: ReleaseFolder, before: ReleasePointer, theirs: ReleasePointer, rollout: RolloutState | None
) -> bool:
    """Return True if a pull would undo changes that the owner of a model made since its last push.

    Always True if another installation pushed last. If this one did, False if the remote is newer than the local
    state, for example after the store folder was restored from a backup.

    Args:
        before: The local pointer.
        theirs, rollout: The pointer and the rollout on the remote.
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
    """Read the state of the newest local rollout; None if there is none or it is damaged."""
    with suppress(DamagedError):
        return read_rollout(folder)
    return None


def ahead(name: str) -> AheadError:
    """Make the error for a pull that would discard local changes."""
    return AheadError(
        f"This home releases {name}, and the remote does not have what was last done here, so nothing of it was "
        "pulled.",
        remedy=f"`forecache push {name}` brings it to the remote.",
    )
