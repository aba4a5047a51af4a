"""The controller of rollouts: judges newly logged requests, then passes a step, returns the release, or waits.

Any number of controllers may run, in any number of installations: in one, one at a time looks at a model, and of
several, the first that moves the state in the lake has judged the step. A look that is killed anywhere is finished by
the next: the end of a rollout and what follows for the releases are one write, and rows of the log are counted by Delta
version.
"""

import logging
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone

from forecache.base.alert import Alert, Kind, Severity
from forecache.base.errors import CheckError, DamagedError, InputError, NotFoundError, UnavailableError
from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.base.steps import rollout_step
from forecache.declare.realtime.realtime import Realtime
from forecache.operations.distribute_release import distribute_state
from forecache.operations.release import BEGUN, UNDER_WAY
from forecache.plugins.rollouts.count_requests import (
    begin_counts,
    count_new_requests,
    logged_version,
    step_id,
)
from forecache.plugins.rollouts.judge_step import StepVerdict, judge_step, next_step
from forecache.plugins.rollouts.step_counts import StepCounts, calibrate_state, read_counts, step_figures, write_counts
from forecache.realtime.release.folder import ReleaseFolder, lock_releases, open_releases, read_release
from forecache.realtime.release.follow_lake import (
    change_state,
    follow_lake,
    has_unsent,
    read_local_state,
    require_release,
)
from forecache.realtime.release.format import RELEASE_FILE
from forecache.realtime.release.lake_state import (
    ReleaseState,
    check_not_bad,
    check_unmoved,
    end_rollout,
    read_lake_state,
)
from forecache.realtime.release.rollout_state import RolloutState, RolloutStep, read_rollout, replicated_fields

logger = logging.getLogger("forecache.rollout")
_ENDS_IN = {"return": "returned", "finish": "done"}
"""The stage of a rollout after an action that ends it."""


@dataclass(frozen=True)
class AdvanceResult:
    state: RolloutState
    moved: bool  # the look changed its step, ended it, or paused it


def advance_rollout(settings: Settings, name: str, *, at: datetime | None = None) -> AdvanceResult | None:
    """Judge the requests of a model's rollout once and move it accordingly; None if there never was a rollout.

    Raises:
        ConflictError: Another process is changing the releases.
        UnreachableError: The lake cannot be reached; nothing was changed.
        NotEverywhereError: It is done here, but not on the remote.
    """
    now = at or datetime.now(timezone.utc)
    folder = open_releases(settings, name)
    if not folder.root.is_dir() and read_lake_state(settings, name) is None:
        return None
    with lock_releases(folder, action="rollout"):
        here = read_local_state(folder).rollout
        state = follow_lake(settings, folder)
        before = state.rollout
        if before is not None and not (before.is_over or before.paused):
            judged, ending = _judge_logged_requests(settings, folder, before, now)
            state = change_state(settings, folder, lambda newest: _apply(newest, before, judged, ending, now))
            if ending is None and step_id(judged) != step_id(before):
                # Requests that arrive from now on are in later versions of the log than this look has read.
                write_counts(folder, StepCounts(step_id(judged), read_counts(folder, step_id(before)).version))
        after = state.rollout
        moved = after is not None and replicated_fields(here) != replicated_fields(after)
        what = f"The rollout of {name} has changed." if moved else f"Releases of {name} have changed."
        if after is not None and moved:
            logger.warning("%s, release %d: %s. %s", name, after.release, after.stage, after.why)
        distribute_state(settings, folder, state, what, now=now)
    return None if after is None else AdvanceResult(after, moved)


def running_rollouts(settings: Settings, names: list[str]) -> list[str]:
    """The models among `names` that the controller has work with: a rollout is under way, or was not brought to all."""
    return [name for name in names if _has_work(settings, name)]


def _has_work(settings: Settings, name: str) -> bool:
    folder = open_releases(settings, name)
    try:
        rollout = read_rollout(folder)
    except DamagedError:
        return True
    if (rollout is not None and not rollout.is_over) or has_unsent(folder):
        return True
    try:
        state = read_lake_state(settings, name)
    except UnavailableError:
        return False
    return state is not None and state.running is not None


def apply_manual_action(
    settings: Settings, name: str, action: str, why: str, *, at: datetime | None = None
) -> RolloutState:
    """Pause, resume, return or finish a rollout by hand; does nothing if the same was done and could not be finished.

    Args:
        action: "pause", "resume", "return" or "finish"; "finish" makes the candidate current.

    Raises:
        NotFoundError: No rollout is under way.
        ConflictError: Another process is changing the releases.
        UnreachableError: The lake cannot be reached, and the action is "resume" or "finish".
        NotEverywhereError: It is done here, but not in the lake, which cannot be reached, or not on the remote.
        InputError: It is not paused, or paused already.
    """
    now = at or datetime.now(timezone.utc)
    folder, is_urgent = open_releases(settings, name), action in ("pause", "return")
    with lock_releases(folder, action=action):
        here = read_local_state(folder).rollout
        is_repeated = here is not None and not here.is_over

        def decide(state: ReleaseState) -> ReleaseState:
            rollout, running = state.rollout, state.running
            if running is not None:
                return _apply_action(state, running, action, why or f"{action} by hand", now)
            if is_repeated and rollout is not None and rollout.is_bad and rollout.stage == _ENDS_IN.get(action):
                return state
            raise NotFoundError(
                f"No rollout of {name} is under way.", remedy=f"`forecache release list {name}` shows the last."
            )

        state = change_state(settings, folder, decide, is_urgent=is_urgent)
        assert state.rollout is not None
        if action == "resume":
            seen = read_counts(folder, step_id(here or state.rollout))
            write_counts(folder, StepCounts(
                step_id(state.rollout), seen.version, kept_us=seen.kept_us, kept_scores=seen.kept_scores
            ))  # fmt: skip
        distribute_state(settings, folder, state, f"The rollout of {name} has changed.", now=now)
    return state.rollout


def _apply_action(state: ReleaseState, running: RolloutState, action: str, why: str, now: datetime) -> ReleaseState:
    if action in ("return", "finish"):
        return end_rollout(state, "returned" if action == "return" else "passed", why, now)
    if running.paused == (action == "pause"):
        raise InputError(f"The rollout of {running.name} is {'' if running.paused else 'not '}paused already.")
    # Requests are counted from now on: those logged while it was paused are not judged.
    since = running.step.since if action == "pause" else _timestamp(now)
    changed = replace(running, paused=action == "pause", why=why).with_step(verdict="waits", why=why, since=since)
    return replace(state, rollout=changed)


def _apply(
    state: ReleaseState, before: RolloutState, judged: RolloutState, ending: StepVerdict | None, now: datetime
) -> ReleaseState:
    """Apply what was judged, unless another installation has moved the rollout meanwhile."""
    if state.running is None or replicated_fields(state.rollout) != replicated_fields(before):
        return state
    state = replace(state, rollout=judged)
    if ending is None:
        return state
    return end_rollout(state, "passed" if ending.verdict == "passed" else "returned", ending.why, now)


def _judge_logged_requests(
    settings: Settings, folder: ReleaseFolder, state: RolloutState, now: datetime
) -> tuple[RolloutState, StepVerdict | None]:
    """Judge the requests logged so far; the verdict is None unless it ends the rollout."""
    try:
        if not (folder.release(state.release) / RELEASE_FILE).is_file():  # reading all of a model takes long
            require_release(settings, folder, state.release)
        read_release(folder, state.release)
    except (NotFoundError, DamagedError, CheckError) as error:
        # The cause has paths, and the reason of a rollout is shown on status pages.
        logger.error("%s: %s", folder.name, error)
        return state, StepVerdict("returned", f"Release {state.release} is gone, or damaged.")
    step = step_id(state)
    seen = count_new_requests(settings, state, read_counts(folder, step), now=now)
    write_counts(folder, seen)
    rollout_step("counted")
    state = replace(calibrate_state(state, seen), looked_at=_timestamp(now))
    verdict = judge_step(state, seen, now=now)
    state = state.with_step(
        why=verdict.why, compared=verdict.compared, requests=verdict.requests, shown=step_figures(seen)
    )  # fmt: skip
    if verdict.verdict == "waits":
        return replace(state, why=verdict.why), None
    if verdict.verdict == "paused":
        return replace(state, paused=True, why=verdict.why).with_step(verdict="paused"), None
    after = None if verdict.verdict == "returned" else next_step(state)
    if after is None:
        return state, verdict
    stage, share = after
    state = state.with_step(verdict="passed", until=_timestamp(now))
    steps = (*state.steps, RolloutStep(stage, share, _timestamp(now)))
    return replace(state, stage=stage, share=share, why=verdict.why, steps=steps), None


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds")


def notify_of_rollout(settings: Settings, state: RolloutState, now: datetime) -> None:
    """Send an alert if the state needs one; an alert that was sent before is not sent again."""
    kind: Kind
    severity: Severity
    if state.stage == "returned" and state.is_bad:
        kind, severity, occasion = "release_returned", "critical", f"{state.release} {state.started_at}"
    elif state.paused and state.step.verdict == "paused":  # also if a look paused it and was killed before its alert
        kind, severity, occasion = "rollout_paused", "warning", f"{state.release} {state.step.since}"
    elif _waits_too_long(state, now):
        kind, severity, occasion = "rollout_waits", "warning", f"{state.release} {state.step.since}"
    else:
        return
    details = {"release": state.release, "stage": state.step.stage, "share": state.step.share}
    for notify in find_hooks("notify"):
        notify(settings, [Alert(kind, state.name, severity, state.why, details, now, occasion)])


def _waits_too_long(state: RolloutState, now: datetime) -> bool:
    lasted = now - datetime.fromisoformat(state.step.since)
    return not (state.is_over or state.paused) and lasted > timedelta(hours=state.plan["alert_after_h"])


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
