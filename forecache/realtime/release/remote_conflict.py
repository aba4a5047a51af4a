"""Compare the releases of this installation with those of a remote: which one has changes that the other lacks.

"Home" in messages and in stored files is an installation.
"""

from contextlib import suppress
from dataclasses import replace

from forecache.base.errors import ConflictError, DamagedError
from forecache.base.folders import Folder
from forecache.realtime.release.claim import installation_of
from forecache.realtime.release.folder import (
    ReleaseFolder,
    ReleasePointer,
    pointer_from_json,
    pointer_to_json,
    read_current,
)
from forecache.realtime.release.released_models import REALTIME
from forecache.realtime.release.remote_rollout import read_remote_rollout, replicated_fields
from forecache.realtime.rollout.rollout_state import RolloutState, read_rollout


class UnpushedChangesError(ConflictError):
    """This installation owns the model and has changes that are not pushed; a pull would discard them."""


def remote_pointer_json(folder: ReleaseFolder, pointer: ReleasePointer) -> bytes:
    """Encode the pointer as it is stored on a remote."""
    return pointer_to_json(replace(pointer, home=installation_of(folder)))


def is_last_pusher(folder: ReleaseFolder, remote: Folder) -> bool:
    """Return True if this installation was the last to push, so the local state continues that of the remote."""
    target = f"{REALTIME}/{folder.name}/CURRENT"
    seen = remote.read(target)
    home = "" if seen is None else pointer_from_json(seen[0], what=f"The remote's {target}").home
    return home != "" and home == installation_of(folder)


def is_behind(folder: ReleaseFolder, remote: Folder) -> bool:
    """Return True if the pointer or the step of the rollout on the remote differs from the local one."""
    root = f"{REALTIME}/{folder.name}"
    seen, rollout = remote.read(f"{root}/CURRENT"), read_rollout(folder)
    if seen is None or seen[0] != remote_pointer_json(folder, read_current(folder)):
        return True
    theirs = read_remote_rollout(folder, remote)
    return rollout is not None and (theirs is None or replicated_fields(theirs) != replicated_fields(rollout))


def would_discard_local_changes(
    folder: ReleaseFolder, before: ReleasePointer, theirs: ReleasePointer, rollout: RolloutState | None
) -> bool:
    """Return True if a pull would undo changes that the owner of a model made since its last push.

    Always True if another installation pushed last. If this one did, False if the remote is newer than the local
    state, for example after the store folder was restored from a backup.

    Args:
        before: The local pointer.
        theirs, rollout: The pointer and the rollout on the remote.
    """
    home = installation_of(folder)
    if before.current is None:
        return False
    if theirs.home != home:
        return True
    is_same = (theirs.current, theirs.bad) == (before.current, before.bad)
    if not is_same and theirs.generation <= before.generation:
        return True
    here = read_local_rollout(folder)
    if here is None or here.home != home:
        return False
    if rollout is None:
        return True
    if replicated_fields(rollout) == replicated_fields(here):
        return False
    if rollout.started_at != here.started_at:
        return rollout.started_at < here.started_at
    return rollout.home != home or rollout.generation < here.generation


def read_local_rollout(folder: ReleaseFolder) -> RolloutState | None:
    """Read the state of the newest local rollout; None if there is none or it is damaged."""
    with suppress(DamagedError):
        return read_rollout(folder)
    return None


def unpushed_changes_error(name: str) -> UnpushedChangesError:
    """Make the error for a pull that would discard local changes."""
    return UnpushedChangesError(
        f"This home releases {name}, and the remote does not have what was last done here, so nothing of it was "
        "pulled.",
        remedy=f"`forecache push {name}` brings it to the remote.",
    )
