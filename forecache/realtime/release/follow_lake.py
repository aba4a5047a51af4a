"""Follow the state of releases in the lake from an installation, and change it; the files here are a copy.

<store>/.realtime/<name>/CURRENT, ROLLOUT   the copy, which readers follow
<store>/.realtime/<name>/UNSENT             there is something that the lake, the remote or people do not have yet

The caller of each function but `follow_bucket` holds the lock of the releases.
"""

import errno
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from forecache.base.errors import (
    CheckError,
    ConflictError,
    DamagedError,
    NotFoundError,
    UnavailableError,
)
from forecache.base.files import write_durably
from forecache.base.settings import Settings
from forecache.base.steps import release_step
from forecache.kit.versioned.folder import dump_with_checksum, load_with_checksum
from forecache.kit.versioned.pointer import write_pointer
from forecache.realtime.release.folder import (
    ReleaseFolder,
    ReleasePointer,
    find_pointer,
    lock_releases,
    open_releases,
    read_files,
    read_release,
    write_release,
)
from forecache.realtime.release.format import Release
from forecache.realtime.release.lake_state import (
    Decide,
    ReleaseState,
    add_release,
    count_changes,
    end_rollout,
    end_superseded_rollout,
    read_lake_state,
    swap_state,
    use_lake,
    use_origin,
)
from forecache.realtime.release.replicas import (
    fetch_release,
    pull_locked_releases,
    remove_retired_files,
    retire_releases,
    upload_release,
)
from forecache.realtime.release.rollout_state import RolloutState, find_rollout, replicated_fields, write_rollout
from forecache.serve.store.remote import list_remote_models

logger = logging.getLogger("forecache.realtime")
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Unsent:
    """A change of this installation that has to be brought to others."""

    id: str = ""  # identity of what was decided here while the lake was away; "" if the lake has everything
    history: str = ""  # of the state in the lake that it changes
    bad: tuple[int, ...] = ()  # the releases that were rolled back
    current: int | None = None  # the release that answers here since
    rollout: Mapping[str, Any] | None = None  # of one that was paused or returned: its start, if it is over, and why


def follow_lake(
    settings: Settings, folder: ReleaseFolder, *, may_begin: bool = False, is_urgent: bool = False
) -> ReleaseState:
    """Bring what was decided here while the lake was away to the lake, and its state here; as `change_state`."""
    return change_state(settings, folder, lambda state: state, may_begin=may_begin, is_urgent=is_urgent)


def follow_bucket(settings: Settings, folder: ReleaseFolder) -> None:
    """Bring the state of a lake in a bucket here if another release is current there; raises `UnavailableError`."""
    if not settings.lake_is_remote:
        return
    state = read_lake_state(settings, folder.name)
    if state is not None and state.pointer.current != find_pointer(folder).current:
        with lock_releases(folder, action="follow"):
            follow_lake(settings, folder)


def change_state(
    settings: Settings, folder: ReleaseFolder, decide: Decide, *, may_begin: bool = False, is_urgent: bool = False
) -> ReleaseState:
    """Change the state in the lake, after what was decided here while it was away; then the copy here.

    Args:
        decide: Returns the next state; called again if another installation was faster.
        may_begin: Begin with what this installation or the remote has, if the lake has no state.
        is_urgent: Change the copy alone if the lake is away; the next call brings it to the lake.

    Raises:
        UnavailableError: The lake does not have or tell the state, or it is damaged; nothing was changed.
    """
    unsent, here = _read_unsent(folder), find_pointer(folder)

    def begin() -> ReleaseState:
        if not may_begin and here.current is not None:
            raise UnavailableError(
                f"The lake {settings.lake_uri} has no releases of {folder.name}, so nothing is changed.",
                remedy="Set FORECACHE_LAKE to the lake that has them. Where it is the right one, "
                f"`forecache release build {folder.name}` brings those that are here.",
            )
        return _first_state(settings, folder, here)

    newest = ReleaseState()

    def decide_next(state: ReleaseState) -> ReleaseState:
        nonlocal newest
        newest = state
        return end_superseded_rollout(decide(_reconcile(unsent, state)))

    try:
        with use_lake(settings, folder.name) as lake:
            state = swap_state(lake, folder.name, decide_next, begin=begin, floor=here.generation)
    except ConflictError:
        if newest.mark and not unsent.id:
            _write_copy(settings, folder, newest)  # so that the next command goes by what was changed meanwhile
        raise
    except UnavailableError as error:
        if not is_urgent:
            raise
        return _change_copy(folder, decide, str(error))
    if state is not newest:
        release_step("state moved")
    _write_copy(settings, folder, state)
    return state


def write_next_release(
    settings: Settings,
    folder: ReleaseFolder,
    draft: Release,
    *,
    model: bytes,
    code: Mapping[str, bytes],
    warmup: Sequence[bytes] = (),
    bins: bytes | None = None,
) -> int:
    """Write a release, which answers no requests yet, under the next number, and bring it to where all find it.

    Returns:
        Its number; or that of an equal one that another installation has made meanwhile.
    """

    def take_number(state: ReleaseState) -> ReleaseState:
        return replace(state, numbered=max([state.numbered, state.pointer.last, *folder.numbers()]) + 1)

    taken = change_state(settings, folder, take_number, may_begin=True)
    release_step("numbered")
    number = taken.numbered
    write_release(folder, draft, number=number, model=model, code=code, warmup=warmup, bins=bins)
    with use_origin(settings, folder.name) as origin:
        upload_release(folder, origin, number)
    release_step("uploaded")
    equal: list[int] = []

    def add(state: ReleaseState) -> ReleaseState:
        known = {*taken.inputs, *state.pointer.bad}
        equal[:] = [each for each, inputs in state.inputs.items() if inputs == draft.inputs != "" and each not in known]
        return state if equal else add_release(state, number, draft.inputs, folder.name)

    state = change_state(settings, folder, add)
    release_step("added")
    with suppress(UnavailableError), use_origin(settings, folder.name) as origin:
        remove_retired_files(folder.name, origin, state)
    return max(equal, default=number)


def require_release(settings: Settings, folder: ReleaseFolder, number: int) -> None:
    """Verify the files of a release here; fetch it if it is missing or damaged.

    Raises:
        NotFoundError, DamagedError, CheckError: It is missing or damaged everywhere.
        UnreachableError: It is missing or damaged here, and what has it cannot be reached.
    """
    try:
        read_files(folder.release(number), read_release(folder, number).files)
    except (NotFoundError, DamagedError) as error:
        try:
            with use_origin(settings, folder.name) as origin:
                fetch_release(folder, origin, number)
        except NotFoundError:
            raise error from None


def fetch_missing_releases(settings: Settings, name: str, numbers: Iterable[int]) -> None:
    """Fetch those releases that this machine does not have, from where all machines find them, as far as they are
    there and this machine can keep them; raises `UnreachableError`."""
    folder = open_releases(settings, name)
    missing = sorted({number for number in numbers if number} - set(folder.numbers()))
    if not missing:
        return
    try:
        with suppress(ConflictError), lock_releases(folder, action="fetch"):  # another process may be changing them
            for number in missing:
                with suppress(NotFoundError, DamagedError, CheckError):
                    require_release(settings, folder, number)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise


def read_local_state(folder: ReleaseFolder) -> ReleaseState:
    """Make a state of what this installation has; what is damaged is left out."""
    pointer, inputs = find_pointer(folder), {}
    for number in folder.numbers():
        with suppress(DamagedError, NotFoundError):
            inputs[number] = read_release(folder, number).inputs
    return ReleaseState(pointer, max([pointer.last, *folder.numbers()]), inputs, find_rollout(folder))


def has_unsent(folder: ReleaseFolder) -> bool:
    """Return True if the lake, the remote or people may not have what was done here."""
    return _unsent_file(folder).exists()


def is_undecided(folder: ReleaseFolder) -> bool:
    return _read_unsent(folder).id != ""


def mark_sent(folder: ReleaseFolder) -> None:
    if not is_undecided(folder):
        _unsent_file(folder).unlink(missing_ok=True)


def _first_state(settings: Settings, folder: ReleaseFolder, here: ReleasePointer) -> ReleaseState:
    """The state to begin with: what is here, else what the remote has; its files are where all find them."""
    if here.current is None and settings.store_remote:
        with use_origin(settings, folder.name) as remote:
            if folder.name in list_remote_models(remote):
                pull_locked_releases(folder, remote)
    state = read_local_state(folder)
    for number in state.inputs:
        with suppress(DamagedError), use_origin(settings, folder.name) as origin:
            upload_release(folder, origin, number)
    history = state.pointer.history or secrets.token_hex(8)
    return replace(state, pointer=replace(state.pointer, history=history))


def _reconcile(unsent: Unsent, state: ReleaseState) -> ReleaseState:
    """Apply to the state what was decided here while the lake was away: the only place where the two meet.

    Releases that were rolled back here are bad. If one of them is still current in the lake, the release that answers
    here becomes current; else the lake's stays. A rollout that was returned or paused here is, if it still runs.
    """
    if not unsent.id or unsent.id in state.reconciled or unsent.history != state.pointer.history:
        return state
    pointer, running, what = state.pointer, state.running, unsent.rollout
    state = replace(state, reconciled=(*state.reconciled[-9:], unsent.id))
    if what is not None and running is not None and running.started_at == what["started_at"]:
        if what["is_over"]:
            state = end_rollout(state, "returned", what["why"])
        else:
            paused = replace(running, paused=True, why=what["why"])
            state = replace(state, rollout=paused.with_step(verdict="waits", why=what["why"]))
        pointer = state.pointer
    current = unsent.current if pointer.current in unsent.bad else pointer.current
    bad = tuple(sorted({*pointer.bad, *unsent.bad}))
    return end_superseded_rollout(replace(state, pointer=replace(pointer, current=current, bad=bad)))


def _change_copy(folder: ReleaseFolder, decide: Decide, why: str) -> ReleaseState:
    """Change the copy here, and keep what has to be brought to the lake."""
    earlier, before = _read_unsent(folder), read_local_state(folder)
    state = end_superseded_rollout(decide(before))
    if state == before:
        return state
    logger.warning("%s It is done here all the same.", why)
    state = count_changes(before, state)
    bad = {*earlier.bad, *(set(state.pointer.bad) - set(before.pointer.bad))}
    rollout, what = state.rollout, earlier.rollout
    if rollout is not None and replicated_fields(rollout) != replicated_fields(before.rollout):
        what = {"started_at": rollout.started_at, "is_over": rollout.is_over, "why": rollout.why}
    _write_unsent(
        folder, Unsent(secrets.token_hex(8), state.pointer.history, tuple(sorted(bad)), state.pointer.current, what)
    )
    release_step("kept to be sent")
    _write_files(folder, before.pointer, state.pointer, rollout)
    return state


def _write_copy(settings: Settings, folder: ReleaseFolder, state: ReleaseState) -> None:
    """Replace the copy here by the state, which has all that was decided here; readers follow it."""
    here, rollout = find_pointer(folder), find_rollout(folder)
    pointer = replace(state.pointer, generation=max(state.pointer.generation, here.generation + 1))
    if replace(here, generation=pointer.generation) == pointer:
        pointer = here
    if pointer != here or replicated_fields(rollout) != replicated_fields(state.rollout) or is_undecided(folder):
        _write_unsent(folder, Unsent())
    elif rollout == state.rollout:
        return
    if _fetch_missing(settings, folder, state):
        _write_files(folder, here, pointer, state.rollout)
        retire_releases(folder, pointer)
        release_step("retired")


def _fetch_missing(settings: Settings, folder: ReleaseFolder, state: ReleaseState) -> bool:
    """Fetch what readers need and is not here; returns False if the current release cannot be had."""
    running, current = state.running, state.pointer.current
    for number in (None if running is None else running.release, current):
        if number is None or (folder.release(number) / "release.json").is_file():
            continue
        try:
            with use_origin(settings, folder.name) as origin:
                fetch_release(folder, origin, number)
        except (NotFoundError, CheckError, UnavailableError) as error:
            logger.error("Release %d of %s is not here: %s", number, folder.name, error)
            if number == current:
                return False
    return True


def _write_files(
    folder: ReleaseFolder, here: ReleasePointer, pointer: ReleasePointer, rollout: RolloutState | None
) -> None:
    """Write the copy; the pointer first: no rollout runs here that the pointer has ended."""
    if pointer != here and pointer.current is not None:
        write_pointer(folder, pointer)
        release_step("pointer moved")
    if rollout is not None:
        write_rollout(folder, rollout)
        release_step("copied")


def _unsent_file(folder: ReleaseFolder) -> Path:
    return folder.root / "UNSENT"


def _read_unsent(folder: ReleaseFolder) -> Unsent:
    file = _unsent_file(folder)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return Unsent()
    try:
        data = load_with_checksum(content, what=f"The file {file}")
    except DamagedError as error:
        raise DamagedError(error.message, remedy="Remove it, and roll back again what is not to answer.") from None
    return Unsent(**{**data, "bad": tuple(data["bad"])})


def _write_unsent(folder: ReleaseFolder, unsent: Unsent) -> None:
    write_durably(_unsent_file(folder), dump_with_checksum(asdict(unsent)))
