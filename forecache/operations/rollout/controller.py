"""The controller of rollouts: it looks at what was logged since, and moves a rollout on, returns it, or lets it wait.

Any number may run: one looks at a time, under the lock of the model's releases. A look that is killed anywhere is
finished by the next: counts and state are files that are replaced whole, rows of the log are counted by Delta version,
and what has to follow a state (the pointer, the mark of a bad release) is done again until it is.
"""

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from forecache.alerts.alert import Alert, Kind, Severity
from forecache.alerts.notify import notify
from forecache.errors import DamagedError, InputError, NotFoundError
from forecache.operations.rollout import ownership
from forecache.operations.rollout.calibrate import calibrated, figures
from forecache.operations.rollout.count import counted, step_id
from forecache.operations.rollout.distribute import distribute, is_told, mark_told
from forecache.operations.rollout.judge import Verdict, following, judged
from forecache.operations.rollout.seen import Seen, read_seen, write_seen
from forecache.realtime.release.folder import ReleaseFolder, open_releases, read_current, read_release, write_current
from forecache.realtime.release.write import writing
from forecache.realtime.rollout.state import RolloutState, Stage, Step, read_rollout, write_rollout
from forecache.settings import Settings
from forecache.steps import rollout_step

logger = logging.getLogger("forecache.rollout")


@dataclass(frozen=True)
class Look:
    """What a look has found.

    A rollout of another home, which was pulled, is shown as it is.

    Attributes:
        moved: Whether the rollout is at another step now, or over, or paused.
    """

    state: RolloutState
    moved: bool


def look(settings: Settings, name: str, *, at: datetime | None = None) -> Look | None:
    """Look at the rollout of a model, once; None where there never was one.

    Args:
        at: The time; None: now.

    Raises:
        ConflictError: Another process is changing the releases.
        DamagedError: The state, or the pointer, is not what was written.
        OwnerUnknownError: The lake does not say whether this home releases the model; nothing was changed.
        NotEverywhereError: It is done here, and not on the remote.
    """
    now = at or datetime.now(timezone.utc)
    folder = open_releases(settings, name)
    state = read_rollout(folder)
    if state is None:
        return None
    if not ownership.is_of_here(folder, state):
        return Look(state, moved=False)
    with writing(folder, action="rollout"):
        before = read_rollout(folder)
        assert before is not None
        owner = ownership.other_owner(settings, folder)
        if owner is not None:
            state = ownership.left(folder, before, owner)
            _tell(settings, state, now)
        else:
            state = _settled(folder, before, now)
            if not (state.is_over or state.paused):
                state = _looked(settings, folder, state, now)
            # Before the release is marked as bad: a look that is killed here tells it again, and that is told once.
            _tell(settings, state, now)
            state = _settled(folder, state, now)
    moved = (state.stage, state.share, state.paused) != (before.stage, before.share, before.paused)
    if moved:
        logger.warning("%s, release %d: %s. %s", name, state.release, state.stage, state.why)
    if owner is None:
        distribute(settings, folder, moved=moved)
    elif state.is_over:
        mark_told(folder, state.generation)
    return Look(state, moved)


def running_rollouts(settings: Settings, names: list[str]) -> list[str]:
    """Those of some models whose rollout is not over, settled and told to all, or cannot be read: a look says why.

    Rollouts of other homes, which were pulled, are left to them.
    """
    return [name for name in names if _is_running(open_releases(settings, name))]


def _is_running(folder: ReleaseFolder) -> bool:
    try:
        state = read_rollout(folder)
        if state is None or not ownership.is_of_here(folder, state):
            return False
        return not (state.is_over and _is_settled(folder, state) and is_told(folder, state))
    except DamagedError:
        return True


def by_hand(settings: Settings, name: str, action: str, why: str, *, at: datetime | None = None) -> RolloutState:
    """Pause, resume, return or finish a rollout.

    Args:
        action: "pause", "resume", "return" or "finish"; the last lets the candidate answer all.

    Raises:
        NotFoundError: No rollout is under way.
        ConflictError: Another home releases the model.
        OwnerUnknownError: The lake does not say which home does, and it is to be resumed or finished.
        InputError: It is not paused, or paused already.
    """
    now = at or datetime.now(timezone.utc)
    folder = open_releases(settings, name)
    state = read_rollout(folder)
    if state is not None:
        ownership.refuse_pulled(folder, state)
        ownership.own(settings, folder, urgent=action in ("pause", "return"))
    with writing(folder, action=action):
        state = read_rollout(folder)
        state = None if state is None else _settled(folder, state, now)
        if state is None or state.is_over:
            raise NotFoundError(
                f"No rollout of {name} is under way.", remedy=f"`forecache releases {name}` shows the last."
            )
        said = why or f"{action} by hand"
        if action in ("pause", "resume"):
            if state.paused == (action == "pause"):
                raise InputError(f"The rollout of {name} is {'' if state.paused else 'not '}paused already.")
            # Its requests are counted from now on: what was found while it was paused is judged no more.
            state = replace(state, paused=action == "pause", why=said)
            since = state.step.since if action == "pause" else _text(now)
            seen = read_seen(folder, step_id(state))
            state = write_rollout(folder, state.with_step(verdict="waits", why=said, since=since))
            if action == "resume":
                write_seen(
                    folder, Seen(step_id(state), seen.version, kept_us=seen.kept_us, kept_scores=seen.kept_scores)
                )
        elif action == "return":
            state = _end(folder, state, Verdict("returned", said), now)
            _tell(settings, state, now)
        else:
            assert action == "finish", action
            state = _end(folder, state, Verdict("passed", said), now)
        state = _settled(folder, state, now)
    distribute(settings, folder, moved=True)
    return state


def _looked(settings: Settings, folder: ReleaseFolder, state: RolloutState, now: datetime) -> RolloutState:
    """The state after a look at what was logged."""
    try:
        read_release(folder, state.release)
    except (NotFoundError, DamagedError) as error:
        # The cause has paths, and what is said of a rollout is shown on status pages.
        logger.error("%s: %s", folder.name, error)
        return _end(folder, state, Verdict("returned", f"Release {state.release} is gone, or damaged."), now)
    step = step_id(state)
    seen = counted(settings, state, read_seen(folder, step), now=now)
    write_seen(folder, seen)
    rollout_step("counted")
    state = replace(calibrated(state, seen), looked_at=_text(now))
    verdict = judged(state, seen, now=now)
    state = state.with_step(
        why=verdict.why, compared=verdict.compared, requests=verdict.requests, shown=figures(seen)
    )  # fmt: skip
    if verdict.verdict == "waits":
        return write_rollout(folder, replace(state, why=verdict.why))
    if verdict.verdict == "paused":
        return write_rollout(folder, replace(state, paused=True, why=verdict.why).with_step(verdict="paused"))
    after = None if verdict.verdict == "returned" else following(state)
    if after is None:
        return _end(folder, state, verdict, now)
    stage, share = after
    state = state.with_step(verdict="passed", until=_text(now))
    steps = (*state.steps, Step(stage, share, _text(now)))
    state = write_rollout(folder, replace(state, stage=stage, share=share, why=verdict.why, steps=steps))
    # What arrives from now on is in later versions of the log than those that were read for this look.
    write_seen(folder, Seen(step_id(state), seen.version))
    return state


def _end(folder: ReleaseFolder, state: RolloutState, verdict: Verdict, now: datetime) -> RolloutState:
    """End a rollout. The pointer moves before the state says "done": a state that does is never ahead of it."""
    if verdict.verdict == "passed":
        pointer = read_current(folder)
        if pointer.current == state.current:
            write_current(folder, replace(pointer, current=state.release, generation=pointer.generation + 1))
            rollout_step("pointer moved")
    stage: Stage = "done" if verdict.verdict == "passed" else "returned"
    state = state.with_step(verdict=verdict.verdict, why=verdict.why, until=_text(now))
    return write_rollout(folder, replace(state, stage=stage, share=0.0, paused=False, why=verdict.why))


def _settled(folder: ReleaseFolder, state: RolloutState, now: datetime) -> RolloutState:
    """What has to follow a state, or the pointer, is done: also what a killed look, or a person, has left."""
    pointer = read_current(folder)
    if not state.is_over and pointer.current != state.current:
        if pointer.current == state.release:
            return _end(folder, state, Verdict("passed", "The candidate is the current release."), now)
        why = f"Release {pointer.current} was made current meanwhile."
        return _end(folder, replace(state, is_bad=False), Verdict("returned", why), now)
    if not _is_settled(folder, state):
        bad = tuple(sorted({*pointer.bad, state.release}))
        write_current(folder, replace(pointer, bad=bad, generation=pointer.generation + 1))
        rollout_step("marked")
    return state


def _is_settled(folder: ReleaseFolder, state: RolloutState) -> bool:
    pointer = read_current(folder)
    return state.stage != "returned" or not state.is_bad or state.release in (pointer.current, *pointer.bad)


def _tell(settings: Settings, state: RolloutState, now: datetime) -> None:
    """Alert people of a release that is returned, or of a rollout that needs one of them or may wait for ever."""
    kind: Kind
    severity: Severity
    if state.stage == "returned" and state.is_bad:
        kind, severity, occasion = "release_returned", "critical", f"{state.release} {state.started_at}"
    elif state.paused and state.step.verdict == "paused":  # also by a look that was killed before it told
        kind, severity, occasion = "rollout_paused", "warning", f"{state.release} {state.step.since}"
    elif _is_long(state, now):
        kind, severity, occasion = "rollout_waits", "warning", f"{state.release} {state.step.since}"
    else:
        return
    details = {"release": state.release, "stage": state.step.stage, "share": state.step.share}
    notify(settings, [Alert(kind, state.name, severity, state.why, details, now, occasion)])


def _is_long(state: RolloutState, now: datetime) -> bool:
    lasted = now - datetime.fromisoformat(state.step.since)
    return not (state.is_over or state.paused) and lasted > timedelta(hours=state.plan["alert_after_h"])


def _text(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds")
