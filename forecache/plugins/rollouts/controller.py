"""The controller of rollouts: judges newly logged requests, then passes a step, returns the release, or waits.

Any number of controllers may run: one at a time holds the lock of the model's releases. A look that is killed anywhere
is finished by the next: counts and state are files that are replaced atomically, rows of the log are counted by Delta
version, and the consequences of a state (the pointer, the mark of a bad release) are repeated until they are done.
"""

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from forecache.base.errors import DamagedError, InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.base.steps import rollout_step
from forecache.plugins.rollouts import ownership
from forecache.plugins.rollouts.count_requests import count_new_requests, step_id
from forecache.plugins.rollouts.distribute import distribute_rollout, is_distributed, mark_distributed
from forecache.plugins.rollouts.judge_step import StepVerdict, judge_step, next_step
from forecache.plugins.rollouts.notify import notify_of_rollout
from forecache.plugins.rollouts.reconcile import (
    end_if_pointer_moved,
    end_rollout,
    mark_bad_release,
    reconcile_rollout,
)
from forecache.plugins.rollouts.step_counts import (
    StepCounts,
    calibrate_state,
    read_counts,
    step_figures,
    write_counts,
)
from forecache.realtime.release.folder import ReleaseFolder, open_releases, read_current, read_release
from forecache.realtime.release.write import lock_releases
from forecache.realtime.rollout.rollout_state import (
    RolloutState,
    RolloutStep,
    is_reconciled,
    read_rollout,
    running_rollout,
    write_rollout,
)

logger = logging.getLogger("forecache.rollout")
_ENDS_IN = {"return": "returned", "finish": "done"}
"""The stage of a rollout after an action that ends it."""


@dataclass(frozen=True)
class AdvanceResult:
    """The state of a rollout after a look at its log.

    The rollout of another installation, which was pulled, is returned unchanged.

    Attributes:
        moved: The look changed its step, ended it, or paused it.
    """

    state: RolloutState
    moved: bool


def advance_rollout(settings: Settings, name: str, *, at: datetime | None = None) -> AdvanceResult | None:
    """Judge the requests of a model's rollout once and move it accordingly; None if there never was a rollout.

    Args:
        at: The time; None: now.

    Raises:
        ConflictError: Another process is changing the releases.
        DamagedError: The state, or the pointer, is damaged.
        OwnerUnknownError: The lake does not say if this installation owns the model; nothing was changed.
        NotEverywhereError: It is done here, but not on the remote.
    """
    now = at or datetime.now(timezone.utc)
    folder = open_releases(settings, name)
    state = read_rollout(folder)
    if state is None:
        return None
    if not ownership.is_own_rollout(folder, state):
        return AdvanceResult(state, moved=False)
    with lock_releases(folder, action="rollout"):
        before = read_rollout(folder)
        assert before is not None
        owner = ownership.find_other_owner(settings, folder)
        if owner is not None:
            state = ownership.pause_after_take_over(folder, before, owner)
            notify_of_rollout(settings, state, now)
        else:
            state = end_if_pointer_moved(folder, before, now)
            if not (state.is_over or state.paused):
                state = _judge_logged_requests(settings, folder, state, now)
            notify_of_rollout(settings, state, now)
            mark_bad_release(folder, state)
    moved = (state.stage, state.share, state.paused) != (before.stage, before.share, before.paused)
    if moved:
        logger.warning("%s, release %d: %s. %s", name, state.release, state.stage, state.why)
    if owner is None:
        distribute_rollout(settings, folder, moved=moved)
    elif state.is_over:
        mark_distributed(folder, state.generation)
    return AdvanceResult(state, moved)


def running_rollouts(settings: Settings, names: list[str]) -> list[str]:
    """The models among `names` whose rollout the controller has work with: not over, or not distributed, or unreadable.

    Pulled rollouts of other installations are left to these.
    """
    return [name for name in names if _is_running(open_releases(settings, name))]


def _is_running(folder: ReleaseFolder) -> bool:
    try:
        state = read_rollout(folder)
        if state is None or not ownership.is_own_rollout(folder, state):
            return False
        return not (state.is_over and is_reconciled(state, read_current(folder)) and is_distributed(folder, state))
    except DamagedError:
        return True


def apply_manual_action(
    settings: Settings, name: str, action: str, why: str, *, at: datetime | None = None
) -> RolloutState:
    """Pause, resume, return or finish a rollout by hand; completes a return or finish that was killed.

    Args:
        action: "pause", "resume", "return" or "finish"; "finish" makes the candidate current.

    Raises:
        NotFoundError: No rollout is under way.
        ConflictError: Another installation owns the model.
        OwnerUnknownError: The lake does not say which one does, and the action is "resume" or "finish".
        InputError: It is not paused, or paused already.
    """
    now = at or datetime.now(timezone.utc)
    folder = open_releases(settings, name)
    state = read_rollout(folder)
    if state is not None:
        ownership.refuse_other_owner(settings, folder, state)
        ownership.claim_ownership(settings, folder, urgent=action in ("pause", "return"))
    finished = reconcile_rollout(settings, folder, at=now)
    if finished is not None and finished.is_bad and finished.stage == _ENDS_IN.get(action):
        distribute_rollout(settings, folder, moved=True)
        return finished
    with lock_releases(folder, action=action):
        state = running_rollout(read_rollout(folder), read_current(folder))
        if state is None:
            raise NotFoundError(
                f"No rollout of {name} is under way.", remedy=f"`forecache releases {name}` shows the last."
            )
        said = why or f"{action} by hand"
        if action in ("pause", "resume"):
            if state.paused == (action == "pause"):
                raise InputError(f"The rollout of {name} is {'' if state.paused else 'not '}paused already.")
            # Requests are counted from now on: those logged while it was paused are not judged.
            state = replace(state, paused=action == "pause", why=said)
            since = state.step.since if action == "pause" else _timestamp(now)
            seen = read_counts(folder, step_id(state))
            state = write_rollout(folder, state.with_step(verdict="waits", why=said, since=since))
            if action == "resume":
                write_counts(
                    folder, StepCounts(step_id(state), seen.version, kept_us=seen.kept_us, kept_scores=seen.kept_scores)
                )
        elif action == "return":
            state = end_rollout(folder, state, StepVerdict("returned", said), now)
            notify_of_rollout(settings, state, now)
            mark_bad_release(folder, state)
        else:
            assert action == "finish", action
            state = end_rollout(folder, state, StepVerdict("passed", said), now)
    distribute_rollout(settings, folder, moved=True)
    return state


def _judge_logged_requests(
    settings: Settings, folder: ReleaseFolder, state: RolloutState, now: datetime
) -> RolloutState:
    """The state after judging the requests logged so far."""
    try:
        read_release(folder, state.release)
    except (NotFoundError, DamagedError) as error:
        # The cause has paths, and the reason of a rollout is shown on status pages.
        logger.error("%s: %s", folder.name, error)
        return end_rollout(folder, state, StepVerdict("returned", f"Release {state.release} is gone, or damaged."), now)
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
        return write_rollout(folder, replace(state, why=verdict.why))
    if verdict.verdict == "paused":
        return write_rollout(folder, replace(state, paused=True, why=verdict.why).with_step(verdict="paused"))
    after = None if verdict.verdict == "returned" else next_step(state)
    if after is None:
        return end_rollout(folder, state, verdict, now)
    stage, share = after
    state = state.with_step(verdict="passed", until=_timestamp(now))
    steps = (*state.steps, RolloutStep(stage, share, _timestamp(now)))
    state = write_rollout(folder, replace(state, stage=stage, share=share, why=verdict.why, steps=steps))
    # Requests that arrive from now on are in later versions of the log than this look has read.
    write_counts(folder, StepCounts(step_id(state), seen.version))
    return state


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds")
