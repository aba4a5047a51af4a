"""Start the rollout of a release, if its declaration has one and there is a release to compare it with."""

from dataclasses import asdict, replace
from datetime import datetime, timezone

from forecache.base.errors import DamagedError, NotFoundError
from forecache.base.plugins import is_installed, load_hook
from forecache.base.settings import Settings
from forecache.declare.realtime.realtime import Realtime
from forecache.realtime.release.folder import ReleaseFolder, read_release
from forecache.realtime.release.follow_lake import change_state
from forecache.realtime.release.lake_state import (
    ReleaseState,
    check_not_bad,
    check_unmoved,
    end_rollout,
    make_current,
)
from forecache.realtime.release.write import lock_releases
from forecache.realtime.rollout.rollout_state import RolloutState, RolloutStep

BEGUN, UNDER_WAY = "begun", "under way"
"""States of a rollout in the details of a release, which else have the reason why there is none."""


def immediate_release_reason(folder: ReleaseFolder, realtime: Realtime, current: int | None) -> str:
    """The reason why a new release answers all requests at once, in a sentence; "" if it is rolled out in steps."""
    if realtime.rollout is None:
        return "Its declaration has no rollout."
    if not is_installed("rollouts"):
        return "This installation has no plug-in `rollouts`."
    if realtime.log is None:
        return "A rollout is judged by the request log, and its declaration has no log."
    if current is None:
        return "It is the first release."
    try:
        before = read_release(folder, current)
    except (NotFoundError, DamagedError):
        return f"Release {current}, which it would be compared with, cannot be read."
    if before.log is None or before.log.by != realtime.log.by:
        return f"Release {current}, which it would be compared with, keeps no log by the same fields."
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


def start_or_make_current(
    settings: Settings, folder: ReleaseFolder, realtime: Realtime, number: int, why_at_once: str, *, seen: ReleaseState
) -> str:
    """Start the rollout of a written release, or make it current at once; returns `BEGUN`, `UNDER_WAY` or the reason.

    Raises:
        ConflictError: It was returned meanwhile, or another release or rollout has begun, or another process is
            changing the releases.
    """
    name, began = realtime.name, datetime.now(timezone.utc).isoformat(timespec="microseconds")
    version = -1 if why_at_once else load_hook("rollouts", "logged_version")(settings, name)

    def decide(state: ReleaseState) -> ReleaseState:
        if number == (state.pointer.current if why_at_once else state.running and state.running.release):
            return state
        check_unmoved(state, seen, name)
        check_not_bad(state, number, name)
        return make_current(state, number, name) if why_at_once else _start_rollout(state, realtime, number, began)

    with lock_releases(folder, action="release"):
        rollout = change_state(settings, folder, decide).rollout
        if why_at_once:
            return why_at_once
        if rollout is None or rollout.started_at != began:
            return UNDER_WAY
        load_hook("rollouts", "begin_counts")(folder, rollout, version)
        return BEGUN


def _start_rollout(state: ReleaseState, realtime: Realtime, number: int, began: str) -> ReleaseState:
    """Start a rollout with the A/A step, in place of one that is under way for another release."""
    declared, current = realtime.rollout, state.pointer.current
    assert declared is not None
    assert current is not None, "the first release is not rolled out"
    step = RolloutStep("aa", declared.aa_share, began, why="It has begun.")
    plan = {**asdict(declared), "deadline_ms": realtime.deadline_ms}
    rollout = RolloutState(
        realtime.name, number, current, "aa", step.share, began, plan, why=step.why, steps=(step,)
    )  # fmt: skip
    return replace(state, rollout=rollout)


def cancel_rollout(state: ReleaseState, why: str) -> ReleaseState:
    """End the rollout that is under way, if any, without marking its release as bad."""
    if state.running is None:
        return state
    return end_rollout(replace(state, rollout=replace(state.running, is_bad=False)), "returned", why)
