"""Push releases to a folder or bucket, and pull them from it; every file is verified before it is served."""

import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from forecache.base.errors import CheckError, ConflictError, DamagedError, NotFoundError
from forecache.base.files import move_durably
from forecache.base.folders import Folder
from forecache.base.steps import release_step
from forecache.kit.versioned.leases import remove_old_versions
from forecache.kit.versioned.pointer import read_pointer, write_pointer
from forecache.kit.versioned.transfer import read_content
from forecache.realtime.release.folder import (
    KEEP,
    ReleaseFolder,
    ReleasePointer,
    find_pointer,
    lock_releases,
    read_files,
    read_release,
    release_file_of,
    stage_files,
)
from forecache.realtime.release.format import RELEASE_FILE, ReleaseFile, release_from_json
from forecache.realtime.release.lake_state import ReleaseState
from forecache.realtime.release.rollout_state import (
    RolloutState,
    find_rollout,
    read_rollout,
    replicated_fields,
    rollout_from_json,
    rollout_to_json,
    running_rollout,
    write_rollout,
)
from forecache.serve.store.layout import REALTIME
from forecache.serve.store.remote import remove_unfinished

logger = logging.getLogger("forecache.realtime")


def push_releases(folder: ReleaseFolder, remote: Folder, state: ReleaseState | None = None) -> dict[str, Any]:
    """Push the current release: its files, its description, then the pointer; and the state of the newest rollout.

    A release that is being rolled out is pushed before the state of its rollout. If the remote has a later copy of the
    same history, which another installation pushed, that stays.

    Args:
        state: The state in the lake; None: what is here.

    Returns:
        `{"release", "files", "bytes"}`: the current release of the remote, and what was transferred.

    Raises:
        NotFoundError: Nothing is released.
    """
    root = f"{REALTIME}/{folder.name}"
    pointer = read_pointer(folder) if state is None else state.pointer
    if pointer.current is None:
        remedy = f"Run `forecache release build {folder.name}`."
        raise NotFoundError(f"Nothing is released of {folder.name}.", remedy=remedy)
    remove_unfinished(remote, root)
    rollout = read_rollout(folder) if state is None else state.rollout
    rolled_out = running_rollout(rollout, pointer)
    missing = upload_release(folder, remote, pointer.current)
    if rolled_out is not None:
        missing |= upload_release(folder, remote, rolled_out.release)
    _write_later_copy(remote, f"{root}/CURRENT", pointer, pointer.to_json(), ReleasePointer.from_json)
    if rollout is not None:
        _write_later_copy(remote, f"{root}/ROLLOUT", rollout, rollout_to_json(rollout), rollout_from_json)
    if state is not None:
        remove_retired_files(folder.name, remote, state)
    return {"release": pointer.current, "files": len(missing), "bytes": sum(map(len, missing.values()))}


def _write_later_copy(
    remote: Folder, target: str, ours: ReleasePointer | RolloutState, content: bytes,
    decode: Callable[..., ReleasePointer | RolloutState],
) -> None:  # fmt: skip
    """Write a copy of a part of the state, unless the remote has the same or a later one."""
    for is_first in (True, False):
        there, theirs = remote.read(target), None
        with suppress(DamagedError):  # one that cannot be read is replaced
            theirs = None if there is None else decode(there[0], what=f"The remote's {target}")
        is_later = theirs is not None and theirs.history == ours.history and theirs.generation >= ours.generation
        if is_later:
            return
        if theirs is not None and theirs.history != ours.history:
            logger.warning("The remote's %s is of another lake, and is replaced.", target)
        if (is_first or theirs is None or theirs.history == ours.history) and remote.swap(
            target, content, there[1] if there else None
        ) is not None:
            return
    raise ConflictError(f"The remote's {target} was moved by another process meanwhile.", remedy="Push again.")


def upload_release(folder: ReleaseFolder, remote: Folder, number: int) -> dict[str, bytes]:
    """Write a release to a remote, its description last; return the files that it did not have, by their name there.

    One that is not here stays as it is on the remote.
    """
    target, place = f"{REALTIME}/{folder.name}/releases/{number:08d}", folder.release(number)
    if not place.is_dir() and remote.size(f"{target}/{RELEASE_FILE}") is not None:
        return {}
    release = read_release(folder, number)
    files = read_files(place, release.files)
    description = (place / RELEASE_FILE).read_bytes()
    there = remote.read(f"{target}/{RELEASE_FILE}")
    if there is not None and there[0] == description:
        return {}
    for name, content in files.items():
        remote.write(f"{target}/{name}", content)
    remote.write(f"{target}/{RELEASE_FILE}", description)
    return {f"{target}/{name}": content for name, content in files.items()}


def remove_retired_files(name: str, remote: Folder, state: ReleaseState) -> None:
    """Remove the files of releases from a remote that are not kept.

    One with a high number may be about to be added to the state, and stays.
    """
    root = f"{REALTIME}/{name}/releases"
    numbered = {each: each.removeprefix(f"{root}/").partition("/")[0] for each in remote.names(root)}
    remote.delete([
        each for each, number in numbered.items()
        if number.isdigit() and int(number) < state.oldest_kept and int(number) not in state.inputs
    ])  # fmt: skip


def pull_releases(folder: ReleaseFolder, remote: Folder, *, verify: bool = False) -> dict[str, Any]:
    """Pull the current release of a remote: download it, verify every file, then move the pointer.

    Args:
        verify: Also verify a release that is here already, and download it again if it is damaged.

    Returns:
        `{"release", "files", "bytes", "moved"}`.

    Raises:
        CheckError: A downloaded file has the wrong checksum; the served release is unchanged.
    """
    with lock_releases(folder, action="pull"):
        return pull_locked_releases(folder, remote, verify=verify)


def pull_locked_releases(folder: ReleaseFolder, remote: Folder, *, verify: bool = False) -> dict[str, Any]:
    root = f"{REALTIME}/{folder.name}"
    seen = read_content(remote, f"{root}/CURRENT")
    if seen is None:
        raise NotFoundError(f"The remote has no release of {folder.name}.", remedy="Release and push first.")
    theirs = ReleasePointer.from_json(seen, what=f"The remote's {root}/CURRENT")
    assert theirs.current is not None
    rollout = _read_remote_rollout(folder, remote)
    rolled_out = running_rollout(rollout, theirs)
    before = find_pointer(folder) if verify else read_pointer(folder)
    travelled = fetch_release(folder, remote, theirs.current, verify=verify)
    more = {} if rolled_out is None else fetch_release(folder, remote, rolled_out.release, verify=verify)
    after = replace(theirs, last=max(before.last, theirs.last), generation=before.generation)
    moved = bool(travelled) or after != before
    if moved:
        after = replace(after, generation=max(before.generation + 1, theirs.generation))
        write_pointer(folder, after)
        release_step("pointer moved")
    if rollout is not None and replicated_fields(find_rollout(folder)) != replicated_fields(rollout):
        write_rollout(folder, rollout)
    retire_releases(folder, after)
    release_step("retired")
    sizes = [len(content) for content in (*travelled.values(), *more.values())]
    return {"release": theirs.current, "files": len(sizes), "bytes": sum(sizes), "moved": moved}


def _read_remote_rollout(folder: ReleaseFolder, remote: Folder) -> RolloutState | None:
    """Read the newest rollout of a remote; None if there is none or it cannot be read, which must not block a pull."""
    target = f"{REALTIME}/{folder.name}/ROLLOUT"
    there = read_content(remote, target)
    try:
        return None if there is None else rollout_from_json(there, what=f"The remote's {target}")
    except DamagedError as error:
        logger.warning("%s The current release goes on answering.", error.message)
        return None


def fetch_release(folder: ReleaseFolder, remote: Folder, number: int, *, verify: bool = True) -> dict[str, bytes]:
    """Download a release and move it into place, unless it is here; return the downloaded files by name.

    Raises:
        NotFoundError: The remote does not have it.
        CheckError: A downloaded file has the wrong checksum.
    """
    source, place = f"{REALTIME}/{folder.name}/releases/{number:08d}", folder.release(number)
    description = _read_file(remote, f"{source}/{RELEASE_FILE}")
    files = release_from_json(description, what=f"The remote's {source}/{RELEASE_FILE}").files
    if _is_installed(place, description, files, verify=verify):
        return {}
    travelled = {}
    for name, said in files.items():
        travelled[name] = _read_file(remote, f"{source}/{name}")
        if release_file_of(travelled[name]) != said:
            raise CheckError(
                f"The file {source}/{name} does not have the checksum that the release says.",
                remedy="What answers is unchanged. Pull again; if it repeats, release and push again.",
            )
    complete = stage_files(folder, {**travelled, RELEASE_FILE: description})
    release_step("staged")
    old = complete.with_name(f"{complete.name}-old")
    if place.is_dir():  # damaged, or of a lost publisher whose numbers restarted at 1
        place.rename(old)
        release_step("set aside")
    move_durably(complete, place)
    shutil.rmtree(old, ignore_errors=True)
    release_step("moved")
    return travelled


def _read_file(remote: Folder, name: str) -> bytes:
    content = read_content(remote, name)
    if content is None:
        raise NotFoundError(f"The remote has no file {name}.", remedy="It was removed; pull again.")
    return content


def _is_installed(place: Path, description: bytes, files: Mapping[str, ReleaseFile], *, verify: bool) -> bool:
    file = place / RELEASE_FILE
    if not file.is_file() or file.read_bytes() != description:
        return False
    try:
        if verify:
            read_files(place, files)
    except DamagedError:
        return False
    return True


def retire_releases(folder: ReleaseFolder, pointer: ReleasePointer) -> None:
    """Remove all but the newest releases, the current one and one being rolled out; the caller holds the lock."""
    try:
        rollout = running_rollout(read_rollout(folder), pointer)
    except DamagedError:
        return  # the release being rolled out is unknown, so keep all; the pointer has moved already
    needed = (*folder.numbers()[-KEEP:], pointer.current, rollout.release if rollout else None)
    remove_old_versions(folder, keep=0, needed=needed)
