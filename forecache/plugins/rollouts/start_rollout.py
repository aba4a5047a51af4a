"""Start the rollout of a release, if its declaration has one and there is a release to compare it with."""

from dataclasses import asdict, replace
from datetime import datetime, timezone

from forecache.base.errors import DamagedError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare.realtime.realtime import Realtime
from forecache.plugins.rollouts.count_requests import logged_version, step_id
from forecache.plugins.rollouts.reconcile import reconcile_rollout
from forecache.plugins.rollouts.step_counts import StepCounts, write_counts
from forecache.realtime.release.claim import installation_of
from forecache.realtime.release.folder import ReleaseFolder, ReleasePointer, read_current, read_release
from forecache.realtime.release.write import check_not_bad, lock_releases, move_pointer
from forecache.realtime.rollout.rollout_state import (
    RolloutState,
    RolloutStep,
    read_rollout,
    running_rollout,
    write_rollout,
)

BEGUN, UNDER_WAY = "begun", "under way"
"""States of a rollout in the details of a release, which else have the reason why there is none."""


def immediate_release_reason(folder: ReleaseFolder, realtime: Realtime) -> str:
    """The reason why a new release answers all requests at once, in a sentence; "" if it is rolled out in steps."""
    if realtime.rollout is None:
        return "Its declaration has no rollout."
    if realtime.log is None:
        return "A rollout is judged by the request log, and its declaration has no log."
    pointer = read_current(folder)
    if pointer.current is None:
        return "It is the first release."
    try:
        before = read_release(folder, pointer.current)
    except (NotFoundError, DamagedError):
        return f"Release {pointer.current}, which it would be compared with, cannot be read."
    if before.log is None or before.log.by != realtime.log.by:
        return f"Release {pointer.current}, which it would be compared with, keeps no log by the same fields."
    return ""


def blind_spot_warning(realtime: Realtime) -> str:
    """A sentence about the harm that the declared rollout of a model cannot detect; "" if it compares outcomes."""
    rollout = realtime.rollout
    if rollout is None or realtime.log is None or rollout.outcome is not None:
        return ""
    if rollout.shadow_share and rollout.guards.order is not None:
        return (
            f"The rollout of {realtime.name} has no `Outcome`: it finds scores whose order is unrelated to the current "
            "release's, and not whether answers are worse."
        )
    why = "no shadow step" if not rollout.shadow_share else "Guards(order=None)"
    return (
        f"The rollout of {realtime.name} has no `Outcome` and {why}: scores of noise that are distributed as usual "
        "reach all requests."
    )


def find_running_rollout(folder: ReleaseFolder) -> RolloutState | None:
    """The rollout that is under way; None if there is none."""
    return running_rollout(read_rollout(folder), read_current(folder))


def start_rollout(settings: Settings, folder: ReleaseFolder, realtime: Realtime, number: int) -> RolloutState:
    """Start a rollout with the A/A step; replaces one that is under way for another release.

    Raises:
        ConflictError: Another process is changing the releases, or has rolled this one back meanwhile.
    """
    assert realtime.rollout is not None
    plan = {**asdict(realtime.rollout), "deadline_ms": realtime.deadline_ms}
    version = logged_version(settings, folder.name)
    began = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    with lock_releases(folder, action="rollout"):
        pointer, before = read_current(folder), read_rollout(folder)
        check_not_bad(folder, pointer, number)
        under_way = running_rollout(before, pointer)
        if under_way is not None and under_way.release == number:
            return under_way
        assert pointer.current is not None, "the first release is not rolled out"
        step = RolloutStep("aa", realtime.rollout.aa_share, began, why="It has begun.")
        state = RolloutState(
            folder.name, number, pointer.current, "aa", step.share, began, plan,
            generation=before.generation if before else 0, why="It has begun.", steps=(step,),
            home=installation_of(folder),
        )  # fmt: skip
        state = write_rollout(folder, state)
        write_counts(folder, StepCounts(step_id(state), version))
        return state


def start_or_make_current(
    settings: Settings,
    folder: ReleaseFolder,
    realtime: Realtime,
    number: int,
    why_at_once: str,
    *,
    seen: ReleasePointer | None = None,
) -> str:
    """Start the rollout of a written release, or make it current at once; returns `BEGUN`, `UNDER_WAY` or the reason.

    Args:
        seen: The pointer by which the caller decided.

    Raises:
        ConflictError: It was returned meanwhile; or it is to be made current, and a person has rolled back, or another
            became current, since `seen`.
    """
    reconcile_rollout(
        settings, folder
    )  # a candidate whose return was killed meanwhile is marked before its state is replaced
    if why_at_once:
        move_pointer(folder, number, seen=seen)
        return why_at_once
    under_way = find_running_rollout(folder)
    if under_way is not None and under_way.release == number:
        return UNDER_WAY
    start_rollout(settings, folder, realtime, number)
    return BEGUN


def cancel_rollout(folder: ReleaseFolder, why: str) -> None:
    """End the rollout that is under way, if any, without marking its release as bad."""
    if find_running_rollout(folder) is None:
        return
    with lock_releases(folder, action="rollout"):
        state = running_rollout(read_rollout(folder), read_current(folder))
        if state is not None:
            now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
            state = state.with_step(verdict="returned", why=why, until=now)
            write_rollout(folder, replace(state, stage="returned", share=0.0, why=why, is_bad=False))
