"""The state of a model's releases: one object in the lake, moved by compare-and-swap; everything else is a copy of it.

<lake>/.realtime/<name>/STATE          numbers, the current release, the bad ones, and the rollout
<lake>/.realtime/<name>/releases/...   the files of the releases if no remote is set, else they are on the remote

Each write has a mark of its own. If the object store's answer to a write is lost, the mark tells if it was made.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import TypeAdapter

from forecache.base.errors import ConflictError, DamagedError, NotFoundError, UnreachableError
from forecache.base.folders import Folder
from forecache.base.settings import Settings
from forecache.base.table_names import NAME
from forecache.kit.installation import open_lake
from forecache.kit.versioned.folder import dump_with_checksum, load_with_checksum
from forecache.kit.versioned.transfer import read_content
from forecache.realtime.release.folder import KEEP, ReleasePointer
from forecache.realtime.release.rollout_state import RolloutState, rollout_from_dict, running_rollout
from forecache.serve.store.layout import REALTIME
from forecache.serve.store.remote import open_remote

FORMAT = 1
_PATIENCE_S = 10.0
"""Time for which reads of an object store are retried; the lock of the releases may be held meanwhile."""


@dataclass(frozen=True)
class ReleaseState:
    """The state of a model's releases."""

    pointer: ReleasePointer = ReleasePointer()
    numbered: int = 0  # the highest number ever given; it may be of a release that was never finished
    inputs: Mapping[int, str] = field(default_factory=dict)  # of each kept release, what it was made from
    rollout: RolloutState | None = None  # the newest rollout; None if there was none
    reconciled: tuple[str, ...] = ()  # changes made while the lake was away, that it has; the newest ten
    mark: str = ""  # different in every state that was ever written

    @property
    def running(self) -> RolloutState | None:
        return running_rollout(self.rollout, self.pointer)

    @property
    def oldest_kept(self) -> int:
        """Releases that are not kept and whose numbers are lower than this are garbage."""
        return sorted(self.inputs)[-KEEP:][0] if self.inputs else 0


_STATE = TypeAdapter(ReleaseState)
Decide = Callable[[ReleaseState], ReleaseState]


def swap_state(
    lake: Folder, name: str, decide: Decide, *, begin: Callable[[], ReleaseState], floor: int
) -> ReleaseState:
    """Change the state to what `decide` makes of the newest one; it is called again if another process was faster.

    Args:
        begin: Returns the state to begin with if there is none in the lake.
        floor: The pointer's generation is higher after a change, even if the lake was set back to an older state.
    """
    target = f"{REALTIME}/{name}/STATE"
    while True:
        found = lake.read(target)
        before = begin() if found is None else state_from_json(found[0], what=f"The file {lake}/{target}")
        after = decide(before)
        if after == before and (found is not None or not after.inputs):
            return before
        after = count_changes(before, after, floor=floor)
        content = state_to_json(after)
        if lake.swap(target, content, found[1] if found else None) is not None:
            return after
        now = lake.read(target)
        if now is not None and now[0] == content:  # the answer to the write was lost
            return after


def count_changes(before: ReleaseState, after: ReleaseState, *, floor: int = 0) -> ReleaseState:
    """Return the state with a new mark, and with the generations of what has changed."""
    pointer, rollout = after.pointer, after.rollout
    if pointer != before.pointer:
        pointer = replace(pointer, generation=max(before.pointer.generation, floor) + 1)
    if rollout is not None and rollout != before.rollout:
        generation = max(rollout.generation, before.rollout.generation if before.rollout else 0) + 1
        rollout = replace(rollout, generation=generation, history=pointer.history)
    return replace(after, pointer=pointer, rollout=rollout, mark=secrets.token_hex(8))


@contextmanager
def use_lake(settings: Settings, name: str) -> Iterator[Folder]:
    """Open the lake as a folder; failures to reach it become one error."""
    with _name_unreachable(f"The lake {settings.lake_uri}", name):
        yield open_lake(settings, patience_s=_PATIENCE_S)


@contextmanager
def use_origin(settings: Settings, name: str) -> Iterator[Folder]:
    """Open the folder that has the files of all releases: the remote, or the lake if none is set."""
    if not settings.store_remote:
        with use_lake(settings, name) as lake:
            yield lake
        return
    with _name_unreachable(f"The remote {settings.store_remote}", name):
        yield open_remote(settings.store_remote, settings.storage_options)


@contextmanager
def _name_unreachable(what: str, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnreachableError(
            f"{what} could not be reached for the releases of {name}: {type(error).__name__}.",
            remedy="Try again once it answers, or mend how it is reached.",
        ) from error


def read_lake_state(settings: Settings, name: str) -> ReleaseState | None:
    """Read the state in the lake, without a lock; None if nothing was released. Raises `UnavailableError`."""
    target = f"{REALTIME}/{name}/STATE"
    with use_lake(settings, name) as lake:
        content = read_content(lake, target)
        return None if content is None else state_from_json(content, what=f"The file {lake}/{target}")


def list_models_in_lake(settings: Settings) -> list[str]:
    """List the real-time models that were released on any machine, in alphabetical order. Raises `UnavailableError`."""
    with _name_unreachable(f"The lake {settings.lake_uri}", "all models"):
        names = open_lake(settings, below=REALTIME, patience_s=_PATIENCE_S).folders()
    return sorted(name for name in names if NAME.fullmatch(name))


def check_unmoved(state: ReleaseState, seen: ReleaseState, name: str) -> None:
    """Raise `ConflictError` if another release, or another rollout, has begun since a decision was made by `seen`."""
    if state.pointer.current != seen.pointer.current:
        raise ConflictError(
            f"Release {state.pointer.current} of {name} has become current meanwhile; nothing was changed.",
            remedy="Run it again where that one is to go, too.",
        )
    running = state.running
    if running is not None and (seen.rollout is None or seen.rollout.started_at != running.started_at):
        raise ConflictError(
            f"A rollout of release {running.release} of {name} has begun meanwhile; nothing was changed.",
            remedy="Run it again where that one is to go, too.",
        )


def check_not_bad(state: ReleaseState, number: int, name: str) -> None:
    """Raise `ConflictError` if a release that is about to become current has been marked as bad."""
    if number in state.pointer.bad:
        raise ConflictError(
            f"Release {number} of {name} was rolled back, or returned, meanwhile; nothing was changed.",
            remedy=f"`forecache release build {name} --again` releases it all the same.",
        )


def add_release(state: ReleaseState, number: int, inputs: str, name: str) -> ReleaseState:
    """Add a release whose files are where all installations find them; the oldest ones are not kept any more.

    Raises:
        ConflictError: So many later ones were made meanwhile that this one would not be kept.
    """
    if len(state.inputs) >= KEEP and number < state.oldest_kept:
        raise ConflictError(f"Later releases of {name} than {number} were made meanwhile.", remedy="Release it again.")
    known = {**state.inputs, number: inputs}
    kept = {*sorted(known)[-KEEP:], state.pointer.current, state.running and state.running.release}
    pointer = replace(state.pointer, last=max(state.pointer.last, number))
    return replace(state, pointer=pointer, inputs={each: known[each] for each in sorted(known) if each in kept})


def make_current(state: ReleaseState, number: int, name: str) -> ReleaseState:
    """Make a release current; raises `NotFoundError` for none, `ConflictError` if it was rolled back meanwhile."""
    check_not_bad(state, number, name)
    if number not in state.inputs:
        raise NotFoundError(f"There is no release {number} of {name}.")
    return end_superseded_rollout(replace(state, pointer=replace(state.pointer, current=number)))


def roll_back(state: ReleaseState, number: int) -> ReleaseState:
    """Make an earlier release current; the one that was current, and those after `number`, are marked as bad."""
    pointer = state.pointer
    left = {each for each in state.inputs if each > number or each == pointer.current}
    bad = tuple(sorted({*pointer.bad, *left} - {number}))
    return end_superseded_rollout(replace(state, pointer=replace(pointer, current=number, bad=bad)))


def end_superseded_rollout(state: ReleaseState, now: datetime | None = None) -> ReleaseState:
    rollout, pointer = state.rollout, state.pointer
    if rollout is None or rollout.is_over or state.running is not None:
        return state
    if pointer.current == rollout.release:
        return end_rollout(state, "passed", "The candidate is the current release.", now)
    if pointer.current == rollout.current:
        return end_rollout(state, "returned", f"Release {rollout.release} was rolled back.", now)
    blameless = replace(state, rollout=replace(rollout, is_bad=False))
    return end_rollout(blameless, "returned", f"Release {pointer.current} was made current meanwhile.", now)


def end_rollout(
    state: ReleaseState, verdict: Literal["passed", "returned"], why: str, now: datetime | None = None
) -> ReleaseState:
    """End the rollout: its candidate becomes current, or is marked as bad."""
    rollout, pointer = state.rollout, state.pointer
    assert rollout is not None
    until = (now or datetime.now(timezone.utc)).astimezone(timezone.utc).isoformat(timespec="microseconds")
    rollout = replace(
        rollout.with_step(verdict=verdict, why=why, until=until),
        stage="done" if verdict == "passed" else "returned", share=0.0, paused=False, why=why,
    )  # fmt: skip
    if verdict == "passed":
        pointer = replace(pointer, current=rollout.release)
    elif rollout.is_bad:
        pointer = replace(pointer, bad=tuple(sorted({*pointer.bad, rollout.release})))
    return replace(state, pointer=pointer, rollout=rollout)


def state_to_json(state: ReleaseState) -> bytes:
    inputs = {str(number): inputs for number, inputs in state.inputs.items()}  # as JSON has them, for the checksum
    return dump_with_checksum({"format": FORMAT, **asdict(state), "inputs": inputs})


def state_from_json(content: bytes, *, what: str) -> ReleaseState:
    """Decode a state. Raises `DamagedError`: it is damaged, or has another format."""
    remedy = "Remove it; the next `forecache release build` makes it again from what that installation has."
    try:
        data: dict[str, Any] = load_with_checksum(content, what=what)
    except DamagedError as error:
        raise DamagedError(error.message, remedy=remedy) from None
    if data.pop("format", None) != FORMAT:
        raise DamagedError(f"{what} has another format than this Forecache reads, {FORMAT}.", remedy=remedy)
    if data["rollout"] is not None:
        data["rollout"] = rollout_from_dict(data["rollout"], what=what)
    return _STATE.validate_python(data)
