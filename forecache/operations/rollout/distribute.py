"""Telling others where a rollout stands: the homes over the lake, by the claim, and replicas, by the remote."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from forecache.errors import DamagedError, ForecacheError, UnavailableError
from forecache.files import write_durably
from forecache.folders import Folder
from forecache.operations.rollout.ownership import asked, claim_of, is_of_here
from forecache.operations.targets import reporting_replica_failure
from forecache.realtime.release.ahead import is_behind, pushed_last_from
from forecache.realtime.release.claim import home_of, refused, show_rollout
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.release.replicas import pull_releases, push_releases
from forecache.realtime.rollout.state import RolloutState, read_rollout
from forecache.settings import Settings
from forecache.store.replicas.sync import open_remote

logger = logging.getLogger("forecache.rollout")


def distribute(settings: Settings, folder: ReleaseFolder, *, moved: bool) -> None:
    """Bring other homes and replicas what has moved, now or at an earlier look that could not reach them."""
    generation = show_in_lake(settings, folder)
    if settings.store_remote:
        with reporting_replica_failure(folder.name, f"The rollout of {folder.name} has changed here."):
            remote = open_remote(settings.store_remote, settings.storage_options)
            if moved or is_behind(folder, remote):
                push_owned(settings, folder, remote)
    if generation is not None:
        mark_told(folder, generation)


def push_owned(settings: Settings, folder: ReleaseFolder, remote: Folder) -> dict[str, Any]:
    """`push_releases`, unless another home over the lake releases the model.

    Raises:
        ConflictError: It does.
        OwnerUnknownError: The lake does not say.
        DamagedError: The claim cannot be read.
    """
    found = claim_of(settings, folder.name)
    if found is not None and found.home != home_of(folder):
        raise refused(found)
    return push_releases(folder, remote)


def pull_owned(settings: Settings, folder: ReleaseFolder, remote: Folder, *, verify: bool = False) -> dict[str, Any]:
    """`pull_releases`, unless this home releases the model and has what the remote has not.

    Raises:
        AheadError: It has.
        Others as `pull_releases`.
    """
    return pull_releases(folder, remote, verify=verify, is_ours=lambda: _releases_here(settings, folder, remote))


def _releases_here(settings: Settings, folder: ReleaseFolder, remote: Folder) -> bool:
    """Whether this home releases a model, by its claim, or else by who pushed last. Replicas ask no lake."""
    if not home_of(folder):
        return False
    try:
        found = claim_of(settings, folder.name)
    except UnavailableError:
        found = None
    return pushed_last_from(folder, remote) if found is None else found.home == home_of(folder)


def show_in_lake(settings: Settings, folder: ReleaseFolder) -> int | None:
    """Write where this home's rollout stands into its claim, for the other homes.

    Returns:
        The generation of the state that they see now; None where there is no rollout of this home, or where the lake
        could not be told, which is done by the next look.
    """
    try:
        state = read_rollout(folder)
        if state is None or not is_of_here(folder, state):
            return None
        with asked(settings, folder.name) as lake, suppress(DamagedError):
            show_rollout(lake, folder.name, home_of(folder), shown(state))
            return state.generation
        # Of a damaged claim, whoever went back all the same has been told.
    except ForecacheError as error:
        logger.warning("The other homes do not see yet where the rollout of %s stands: %s", folder.name, error.message)
    return None


def is_told(folder: ReleaseFolder, state: RolloutState) -> bool:
    """Whether the other homes and the remote have this state."""
    try:
        return _told_file(folder).read_text() == str(state.generation)
    except FileNotFoundError:
        return False


def mark_told(folder: ReleaseFolder, generation: int) -> None:
    """Note that the other homes and the remote have the state of this generation, or are another home's to tell."""
    write_durably(_told_file(folder), str(generation))


def _told_file(folder: ReleaseFolder) -> Path:
    return folder.root / "ROLLOUT.told"


def shown(state: RolloutState) -> dict[str, Any]:
    """What other homes see of a rollout."""
    return {
        "release": state.release, "current": state.current, "stage": state.stage, "share": state.share,
        "since": state.step.since, "verdict": state.step.verdict, "paused": state.paused, "why": state.why,
    }  # fmt: skip
