"""Ownership of a model's releases: the one installation over a lake that may change them, by a claim in the lake."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from forecache.base.errors import ConflictError, DamagedError, ForecacheError, UnavailableError
from forecache.base.folders import Folder, open_folder
from forecache.base.settings import Settings
from forecache.base.steps import claim_step
from forecache.realtime.release.claim import (
    Claim,
    claimed_elsewhere_error,
    installation_of,
    make_claim,
    move_claim,
    new_claim,
    read_claim,
)
from forecache.realtime.release.folder import ReleaseFolder, read_current
from forecache.realtime.release.remote_conflict import is_last_pusher
from forecache.realtime.release.replicas import list_remote_models, pull_releases
from forecache.realtime.release.write import lock_releases
from forecache.realtime.rollout.rollout_state import RolloutState, is_reconciled, read_rollout, write_rollout
from forecache.serve.store.replicas.sync import open_remote

logger = logging.getLogger("forecache.rollout")
_PATIENCE_S = 10.0
"""Time for which reads of an object store are retried; the lock of the releases may be held meanwhile."""


class OwnerUnknownError(UnavailableError):
    """The owner of a model is not known at the moment."""


def claim_ownership(settings: Settings, folder: ReleaseFolder, *, urgent: bool = False) -> None:
    """Claim a model for this installation if none has claimed it; also finishes a killed take-over.

    Args:
        urgent: The caller is about to take a release out of service, which has to be possible without the lake.

    Raises:
        ConflictError: Another installation has claimed it.
        OwnerUnknownError: The lake does not say, and it is not urgent.
        DamagedError: The claim cannot be read, and it is not urgent.
    """
    ours = new_claim(folder)
    claim_step("identified")
    try:
        with use_lake(settings, folder.name) as lake:
            found = make_claim(lake, ours)
    except UnavailableError as error:
        if not urgent:
            raise
        remedy = f" {error.remedy}" if isinstance(error, DamagedError) else ""  # the lake may answer again by itself
        logger.warning("%s It is done here all the same.%s", error.message, remedy)
        return
    claim_step("claimed")
    if found.home != ours.home:
        raise claimed_elsewhere_error(found)
    _adopt_rollout(folder, ours)


def find_other_owner(settings: Settings, folder: ReleaseFolder) -> Claim | None:
    """The claim of another installation, None if this one has it. It makes no claim: the lake may be a wrong one.

    Raises:
        OwnerUnknownError: The lake does not say, or has no claim.
    """
    found = claim_of(settings, folder.name)
    if found is None:
        raise OwnerUnknownError(
            f"The lake {settings.lake_uri} has no claim of {folder.name}, so nothing is changed.",
            remedy=f"Where it is the right lake, `forecache release {folder.name}` claims the model again.",
        )
    return None if found.home == installation_of(folder) else found


def claim_of(settings: Settings, name: str) -> Claim | None:
    """The claim of a model, None if no installation has claimed it.

    Raises:
        OwnerUnknownError: The lake does not say.
    """
    with use_lake(settings, name) as lake:
        return read_claim(lake, name)


def take_over(settings: Settings, folder: ReleaseFolder) -> None:
    """Make this installation the owner of a model, after pulling the releases of the remote, if one is set.

    If it is killed anywhere, the next call finishes it. If the claim is damaged and this installation was the last to
    push, nothing is pulled: the local releases are those of the remote, with later rollbacks.

    Raises:
        ConflictError: Another installation took it over meanwhile.
        OwnerUnknownError: The lake cannot be reached.
    """
    is_ours = _is_owner(settings, folder)
    if not is_ours:
        _pull_from_remote(settings, folder)
    ours = new_claim(folder)
    with use_lake(settings, folder.name) as lake:
        move_claim(lake, ours)
    claim_step("taken over")
    if not is_ours:
        _pull_from_remote(
            settings, folder
        )  # releases that the other installation had begun to push before it lost the claim
    _adopt_rollout(folder, ours)


def is_own_rollout(folder: ReleaseFolder, state: RolloutState) -> bool:
    """Tell if a rollout was begun or taken over by this installation, and not pulled from another."""
    return state.home == installation_of(folder)


def refuse_other_owner(settings: Settings, folder: ReleaseFolder, state: RolloutState) -> None:
    """Raise `ConflictError` for the pulled rollout of another installation, unless this one has the claim by now."""
    if is_own_rollout(folder, state):
        return
    with suppress(UnavailableError):
        found = claim_of(settings, folder.name)
        if found is not None and found.home == installation_of(folder):
            return  # a take-over was killed, which `claim_ownership` finishes
    raise ConflictError(
        f"The rollout of {state.name} is another home's, and was pulled from the remote.",
        remedy=f"Move it there; `forecache releases {state.name}` names that home where it is over the same lake.",
    )


def pause_after_take_over(folder: ReleaseFolder, state: RolloutState, owner: Claim) -> RolloutState:
    """Pause the rollout because another installation has taken the model over; returns the state."""
    if state.is_over or state.paused or not is_own_rollout(folder, state):
        return state
    why = f"{owner.name} was taken over by {owner}; this home does not move its rollout on any more."
    return write_rollout(folder, replace(state, paused=True, why=why).with_step(verdict="paused", why=why))


def _adopt_rollout(folder: ReleaseFolder, ours: Claim) -> None:
    """Make a pulled rollout this installation's own, so that it moves it on or finishes its end."""
    with suppress(DamagedError):  # the next look reports it
        if _adoptable_rollout(folder, ours) is not None:
            with lock_releases(folder, action="take-over"):
                state = _adoptable_rollout(folder, ours)
                if state is not None:
                    write_rollout(folder, replace(state, home=ours.home))
    claim_step("adopted")


def _adoptable_rollout(folder: ReleaseFolder, ours: Claim) -> RolloutState | None:
    """A pulled rollout that is not over or not reconciled; None if there is none."""
    state = read_rollout(folder)
    if state is None or state.home == ours.home or (state.is_over and is_reconciled(state, read_current(folder))):
        return None
    return state


def _pull_from_remote(settings: Settings, folder: ReleaseFolder) -> None:
    """Pull a model's releases from the remote, so that the numbers of new ones follow on."""
    with _use_remote(settings, folder.name) as remote:
        if remote is not None and folder.name in list_remote_models(remote):
            pull_releases(folder, remote, rolled_back=True)


@contextmanager
def _use_remote(settings: Settings, name: str) -> Iterator[Folder | None]:
    """The remote, None if none is set; failures to reach it become one error."""
    if not settings.store_remote:
        yield None
        return
    try:
        yield open_remote(settings.store_remote, settings.storage_options)
    except ForecacheError:
        raise
    except Exception as error:  # the clients of object stores have errors of their own
        raise UnavailableError(
            f"The remote {settings.store_remote}, whose releases of {name} this home has to go on from, could "
            f"not be read: {type(error).__name__}.",
            remedy="Take over once it can be read.",
        ) from error


def _is_owner(settings: Settings, folder: ReleaseFolder) -> bool:
    try:
        found = claim_of(settings, folder.name)
    except DamagedError:
        # Local rollbacks could not be pushed meanwhile, and would be lost by a pull.
        with _use_remote(settings, folder.name) as remote:
            return remote is not None and is_last_pusher(folder, remote)
    return found is not None and found.home == installation_of(folder)


@contextmanager
def use_lake(settings: Settings, name: str) -> Iterator[Folder]:
    """The lake as a folder; failures to reach it become one error."""
    try:
        yield open_folder(
            settings.lake_uri, settings.storage_options, setting="FORECACHE_LAKE", patience_s=_PATIENCE_S
        )  # fmt: skip
    except ForecacheError:
        raise
    except Exception as error:  # the clients of object stores have errors of their own
        raise OwnerUnknownError(
            f"The lake {settings.lake_uri} could not be asked which home releases {name}: {type(error).__name__}.",
            remedy="Try again once it answers, or mend how it is reached.",
        ) from error
