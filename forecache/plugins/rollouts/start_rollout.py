"""Start the rollout of a release, if its declaration has one and there is a release to compare it with."""

from dataclasses import asdict, replace
from datetime import datetime, timezone

from forecache.base.errors import DamagedError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare.realtime.realtime import Realtime
from forecache.operations.release import BEGUN, UNDER_WAY
from forecache.plugins.rollouts.count_requests import begin_counts, logged_version
from forecache.realtime.release.folder import ReleaseFolder, read_release
from forecache.realtime.release.follow_lake import change_state
from forecache.realtime.release.lake_state import (
    ReleaseState,
    check_not_bad,
    check_unmoved,
)
from forecache.realtime.release.rollout_state import RolloutState, RolloutStep
from forecache.realtime.release.write import lock_releases


def immediate_release_reason(folder: ReleaseFolder, realtime: Realtime, current: int | None) -> str:
    """The reason why a new release is not rolled out as declared, in a sentence; "" if it is."""
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


def start_rollout(
    settings: Settings, folder: ReleaseFolder, realtime: Realtime, number: int, *, seen: ReleaseState
) -> str:
    """Start the rollout of a written release; returns `BEGUN`, or `UNDER_WAY` if it has begun already.

    Args:
        seen: The state by which the caller decided.

    Raises:
        ConflictError: It was returned meanwhile, or another release or rollout has begun, or another process is
            changing the releases.
    """
    name, began = realtime.name, datetime.now(timezone.utc).isoformat(timespec="microseconds")
    version = logged_version(settings, name)

    def decide(state: ReleaseState) -> ReleaseState:
        if state.running is not None and state.running.release == number:
            return state
        check_unmoved(state, seen, name)
        check_not_bad(state, number, name)
        return _begin_rollout(state, realtime, number, began)

    with lock_releases(folder, action="release"):
        rollout = change_state(settings, folder, decide).rollout
        if rollout is None or rollout.started_at != began:
            return UNDER_WAY
        begin_counts(folder, rollout, version)
        return BEGUN


def _begin_rollout(state: ReleaseState, realtime: Realtime, number: int, began: str) -> ReleaseState:
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
