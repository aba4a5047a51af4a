"""Bringing the state of a rollout and the pointer of the releases together, where a process was killed between them.

A return is decided by the state, and the pointer follows: the candidate is marked as bad. Everything else is decided by
the pointer, and the state follows. Whatever else moves a model's releases finishes that first: a candidate that was
returned is not marked yet, and would be taken for one that may be rolled out.
"""

from dataclasses import replace
from datetime import datetime, timezone

from forecache.errors import DamagedError
from forecache.operations.rollout.judge import Verdict
from forecache.operations.rollout.ownership import is_of_here
from forecache.operations.rollout.tell import tell
from forecache.realtime.release.folder import ReleaseFolder, read_current, write_current
from forecache.realtime.release.write import writing
from forecache.realtime.rollout.state import RolloutState, Stage, is_settled, read_rollout, running, write_rollout
from forecache.settings import Settings
from forecache.steps import rollout_step


def settle(settings: Settings, folder: ReleaseFolder, *, at: datetime | None = None) -> RolloutState | None:
    """Finish what a killed process, or a move of the pointer, has left of this home's rollout, and tell it.

    Args:
        at: The time; None: now.

    Returns:
        The state, which is over then; None where nothing was left, also because the state cannot be read.

    Raises:
        ConflictError: Another process is changing the releases.
    """
    if _unsettled(folder) is None:
        return None
    with writing(folder, action="rollout"):
        state = _unsettled(folder)
        if state is None:
            return None  # the process that was between the two was alive, and has finished
        now = at or datetime.now(timezone.utc)
        state = ended(folder, state, now)
        tell(settings, state, now)
        mark(folder, state)
        return state


def ended(folder: ReleaseFolder, state: RolloutState, now: datetime) -> RolloutState:
    """The state, which is over where the pointer says so; the caller holds the lock of the releases."""
    pointer = read_current(folder)
    if state.is_over or running(state, pointer) is not None:
        return state
    if pointer.current == state.release:
        return end(folder, state, Verdict("passed", "The candidate is the current release."), now)
    if pointer.current == state.current:
        return end(folder, state, Verdict("returned", f"Release {state.release} was rolled back."), now)
    why = f"Release {pointer.current} was made current meanwhile."
    return end(folder, replace(state, is_bad=False), Verdict("returned", why), now)


def end(folder: ReleaseFolder, state: RolloutState, verdict: Verdict, now: datetime) -> RolloutState:
    """End a rollout. The pointer moves before the state says "done": a state that does is never ahead of it.

    A candidate that is returned is still to be marked.
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


def mark(folder: ReleaseFolder, state: RolloutState) -> None:
    """Mark a candidate that was returned as bad, once people are told: who is killed before tells them again."""
    pointer = read_current(folder)
    if state.is_over and not is_settled(state, pointer):
        bad = tuple(sorted({*pointer.bad, state.release}))
        write_current(folder, replace(pointer, bad=bad, generation=pointer.generation + 1))
        rollout_step("marked")


def _unsettled(folder: ReleaseFolder) -> RolloutState | None:
    """The rollout of this home that is not in line with the pointer; None where there is none."""
    try:
        state, pointer = read_rollout(folder), read_current(folder)
    except DamagedError:
        return None  # who looks at it is told so
    return None if state is None or not is_of_here(folder, state) or is_settled(state, pointer) else state
