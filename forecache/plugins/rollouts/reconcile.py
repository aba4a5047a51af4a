"""Reconcile the state of a rollout with the pointer of the releases, after a process was killed between their writes.

A return is decided by the state, and the pointer follows: the candidate is marked as bad. Everything else is decided by
the pointer, and the state follows. Every other operation on a model's releases reconciles first: else it could roll out
a candidate that was returned and is not marked yet.
"""

from dataclasses import replace
from datetime import datetime, timezone

from forecache.base.errors import DamagedError
from forecache.base.settings import Settings
from forecache.base.steps import rollout_step
from forecache.plugins.rollouts.judge_step import StepVerdict
from forecache.plugins.rollouts.notify import notify_of_rollout
from forecache.plugins.rollouts.ownership import is_own_rollout
from forecache.realtime.release.folder import ReleaseFolder, read_current, write_current
from forecache.realtime.release.write import lock_releases
from forecache.realtime.rollout.rollout_state import (
    RolloutState,
    Stage,
    is_reconciled,
    read_rollout,
    running_rollout,
    write_rollout,
)


def reconcile_rollout(settings: Settings, folder: ReleaseFolder, *, at: datetime | None = None) -> RolloutState | None:
    """End this installation's rollout if a killed process or a moved pointer has left it open, and notify people.

    Args:
        at: The time; None: now.

    Returns:
        The ended state; None if there was nothing to do, or if the state cannot be read.

    Raises:
        ConflictError: Another process is changing the releases.
    """
    if _find_unreconciled(folder) is None:
        return None
    with lock_releases(folder, action="rollout"):
        state = _find_unreconciled(folder)
        if state is None:
            return None  # the other process was alive, and has finished
        now = at or datetime.now(timezone.utc)
        state = end_if_pointer_moved(folder, state, now)
        notify_of_rollout(settings, state, now)
        mark_bad_release(folder, state)
        return state


def end_if_pointer_moved(folder: ReleaseFolder, state: RolloutState, now: datetime) -> RolloutState:
    """End the rollout if the pointer has moved; returns the state. The caller holds the lock of the releases."""
    pointer = read_current(folder)
    if state.is_over or running_rollout(state, pointer) is not None:
        return state
    if pointer.current == state.release:
        return end_rollout(folder, state, StepVerdict("passed", "The candidate is the current release."), now)
    if pointer.current == state.current:
        return end_rollout(folder, state, StepVerdict("returned", f"Release {state.release} was rolled back."), now)
    why = f"Release {pointer.current} was made current meanwhile."
    return end_rollout(folder, replace(state, is_bad=False), StepVerdict("returned", why), now)


def end_rollout(folder: ReleaseFolder, state: RolloutState, verdict: StepVerdict, now: datetime) -> RolloutState:
    """End a rollout; returns the state. The pointer moves first, so that a state "done" is never ahead of it.

    The caller marks a candidate that is returned.
    """
    if verdict.verdict == "passed":
        pointer = read_current(folder)
        if pointer.current == state.current:
            write_current(folder, replace(pointer, current=state.release, generation=pointer.generation + 1))
            rollout_step("pointer moved")
    stage: Stage = "done" if verdict.verdict == "passed" else "returned"
    until = now.astimezone(timezone.utc).isoformat(timespec="microseconds")
    state = state.with_step(verdict=verdict.verdict, why=verdict.why, until=until)
    return write_rollout(folder, replace(state, stage=stage, share=0.0, paused=False, why=verdict.why))


def mark_bad_release(folder: ReleaseFolder, state: RolloutState) -> None:
    """Mark a returned candidate as bad; called after the alert, so that a kill in between repeats the alert."""
    pointer = read_current(folder)
    if state.is_over and not is_reconciled(state, pointer):
        bad = tuple(sorted({*pointer.bad, state.release}))
        write_current(folder, replace(pointer, bad=bad, generation=pointer.generation + 1))
        rollout_step("marked")


def _find_unreconciled(folder: ReleaseFolder) -> RolloutState | None:
    """This installation's rollout if its state and the pointer differ; else None."""
    try:
        state, pointer = read_rollout(folder), read_current(folder)
    except DamagedError:
        return None  # the next look reports it
    return None if state is None or not is_own_rollout(folder, state) or is_reconciled(state, pointer) else state
