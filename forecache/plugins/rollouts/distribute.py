"""Distribute the state of a rollout: to installations over the lake, by the claim, and to replicas, by the remote."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from forecache.base.errors import DamagedError, ForecacheError, UnavailableError
from forecache.base.files import write_durably
from forecache.base.folders import Folder
from forecache.base.settings import Settings
from forecache.operations.replica_errors import report_replica_failure
from forecache.plugins.rollouts.ownership import claim_of, is_own_rollout, use_lake
from forecache.realtime.release.claim import claimed_elsewhere_error, installation_of, record_rollout
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.release.remote_conflict import is_behind, is_last_pusher
from forecache.realtime.release.replicas import pull_releases, push_releases
from forecache.realtime.rollout.rollout_state import RolloutState, read_rollout
from forecache.serve.store.replicas.sync import open_remote

logger = logging.getLogger("forecache.rollout")


def distribute_rollout(settings: Settings, folder: ReleaseFolder, *, moved: bool) -> None:
    """Distribute a change, made now or at an earlier look that could not reach the lake or the remote."""
    generation = write_to_claim(settings, folder)
    if settings.store_remote:
        with report_replica_failure(folder.name, f"The rollout of {folder.name} has changed here."):
            remote = open_remote(settings.store_remote, settings.storage_options)
            if moved or is_behind(folder, remote):
                push_if_owner(settings, folder, remote)
    if generation is not None:
        mark_distributed(folder, generation)


def push_if_owner(settings: Settings, folder: ReleaseFolder, remote: Folder) -> dict[str, Any]:
    """Push the releases of a model, unless another installation over the lake owns it.

    Raises:
        ConflictError: Another installation owns it.
        OwnerUnknownError: The lake does not say.
        DamagedError: The claim cannot be read.
    """
    found = claim_of(settings, folder.name)
    if found is not None and found.home != installation_of(folder):
        raise claimed_elsewhere_error(found)
    return push_releases(folder, remote)


def pull_unless_ahead(
    settings: Settings, folder: ReleaseFolder, remote: Folder, *, verify: bool = False
) -> dict[str, Any]:
    """Pull the releases of a model, unless this installation owns it and has changes that the remote lacks.

    Raises:
        AheadError: It owns the model and has such changes.
        Others as `pull_releases`.
    """
    return pull_releases(folder, remote, verify=verify, is_ours=lambda: _owns_releases(settings, folder, remote))


def _owns_releases(settings: Settings, folder: ReleaseFolder, remote: Folder) -> bool:
    """Tell if this installation owns a model, by its claim, or else by the last push. Replicas do not read the lake."""
    if not installation_of(folder):
        return False
    try:
        found = claim_of(settings, folder.name)
    except UnavailableError:
        found = None
    return is_last_pusher(folder, remote) if found is None else found.home == installation_of(folder)


def write_to_claim(settings: Settings, folder: ReleaseFolder) -> int | None:
    """Write the state of this installation's rollout into its claim in the lake, for the other installations.

    Returns:
        The generation of the state that they see now; None if this installation has no rollout, or if the lake could
        not be written, which the next look repeats.
    """
    try:
        state = read_rollout(folder)
        if state is None or not is_own_rollout(folder, state):
            return None
        with use_lake(settings, folder.name) as lake, suppress(DamagedError):
            record_rollout(lake, folder.name, installation_of(folder), rollout_summary(state))
            return state.generation
        # A damaged claim has been reported before: a rollback that goes on without it logs a warning.
    except ForecacheError as error:
        logger.warning("The other homes do not see yet where the rollout of %s stands: %s", folder.name, error.message)
    return None


def is_distributed(folder: ReleaseFolder, state: RolloutState) -> bool:
    """Tell if the other installations and the remote have this state."""
    try:
        return _distributed_file(folder).read_text() == str(state.generation)
    except FileNotFoundError:
        return False


def mark_distributed(folder: ReleaseFolder, generation: int) -> None:
    """Record that the state of this generation is distributed, or that another installation distributes it."""
    write_durably(_distributed_file(folder), str(generation))


def _distributed_file(folder: ReleaseFolder) -> Path:
    return folder.root / "ROLLOUT.told"


def rollout_summary(state: RolloutState) -> dict[str, Any]:
    """The part of a rollout's state that other installations see."""
    return {
        "release": state.release, "current": state.current, "stage": state.stage, "share": state.share,
        "since": state.step.since, "verdict": state.step.verdict, "paused": state.paused, "why": state.why,
    }  # fmt: skip
