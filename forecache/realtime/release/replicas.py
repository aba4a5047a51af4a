"""Push releases to a folder or bucket, and pull them from it; every file is verified before it is served."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from forecache.base.errors import CheckError, ConflictError, DamagedError, NotFoundError
from forecache.base.files import move_durably, write_durably
from forecache.base.folders import Folder
from forecache.base.steps import release_step
from forecache.realtime.release.claim import installation_of
from forecache.realtime.release.folder import (
    ReleaseFolder,
    ReleasePointer,
    pointer_from_json,
    read_current,
    read_files,
    read_release,
    release_file_of,
    write_current,
)
from forecache.realtime.release.format import RELEASE_FILE, Release, release_from_json
from forecache.realtime.release.released_models import REALTIME
from forecache.realtime.release.remote_conflict import (
    read_local_rollout,
    remote_pointer_json,
    unpushed_changes_error,
    would_discard_local_changes,
)
from forecache.realtime.release.remote_rollout import push_rollout, read_remote_rollout, replicated_fields
from forecache.realtime.release.write import lock_releases, retire_releases, stage_files
from forecache.realtime.rollout.rollout_state import (
    RolloutState,
    is_reconciled,
    read_rollout,
    rollout_file,
    rollout_to_json,
    running_rollout,
)
from forecache.serve.store.replicas.remote_retention import remove_unfinished


def list_remote_models(remote: Folder) -> list[str]:
    """List the real-time models that have a current release on a remote, in alphabetical order."""
    names = {name.split("/")[1] for name in remote.names(REALTIME) if name.endswith("/CURRENT")}
    return sorted(names)


def push_releases(folder: ReleaseFolder, remote: Folder) -> dict[str, Any]:
    """Push the current release: its files, its description, then the pointer.

    A release that is being rolled out is pushed too, before the state of its rollout.

    Returns:
        `{"release", "files", "bytes"}`: the current release of the remote, and what was transferred.

    Raises:
        NotFoundError: Nothing is released.
        ConflictError: Another process moved the remote's pointer meanwhile.
        DamagedError: A file of the release is damaged.
    """
    root = f"{REALTIME}/{folder.name}"
    seen = remote.read(f"{root}/CURRENT")  # before the local pointer: a pointer pushed in between must not look older
    pointer = read_current(folder)
    if pointer.current is None:
        raise NotFoundError(f"Nothing is released of {folder.name}.", remedy=f"Run `forecache release {folder.name}`.")
    remove_unfinished(remote, root)
    rollout = read_rollout(folder)
    rolled_out = running_rollout(rollout, pointer)
    missing = _push_files(folder, remote, pointer.current)
    if rolled_out is not None:
        missing |= _push_files(folder, remote, rolled_out.release)
    ours = remote_pointer_json(folder, pointer)
    same = seen is not None and seen[0] == ours
    if not same and remote.swap(f"{root}/CURRENT", ours, seen[1] if seen else None) is None:
        if read_current(folder) != pointer:
            return push_releases(folder, remote)  # a new release was made and pushed here meanwhile
        raise ConflictError(
            f"The remote's {root}/CURRENT was moved by another process meanwhile.", remedy="Push again."
        )
    if rollout is not None:
        push_rollout(remote, f"{root}/ROLLOUT", rollout)
    # Listed before the local ones: a release made and pushed meanwhile must not be taken for a retired one.
    listed = [name for name in remote.names(f"{root}/releases") if name.rpartition("/releases/")[0] == root]
    kept = {f"{root}/releases/{number:08d}" for number in folder.numbers()}
    remote.delete([name for name in listed if "/".join(name.split("/")[:4]) not in kept])
    return {"release": pointer.current, "files": len(missing), "bytes": sum(map(len, missing.values()))}


def _push_files(folder: ReleaseFolder, remote: Folder, number: int) -> dict[str, bytes]:
    """Push one release; return the files that the remote did not have, by their name there."""
    release, place = read_release(folder, number), folder.release(number)
    files, target = read_files(place, release.files), f"{REALTIME}/{folder.name}/releases/{number:08d}"
    description = (place / RELEASE_FILE).read_bytes()
    there = remote.read(f"{target}/{RELEASE_FILE}")
    if there is not None and there[0] == description:
        return {}
    for name, content in files.items():
        remote.write(f"{target}/{name}", content)
    remote.write(f"{target}/{RELEASE_FILE}", description)
    return {f"{target}/{name}": content for name, content in files.items()}


def pull_releases(
    folder: ReleaseFolder,
    remote: Folder,
    *,
    verify: bool = False,
    rolled_back: bool = False,
    is_ours: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Pull the current release of a remote: download it, verify every file, then move the pointer.

    Args:
        verify: Also verify a release that is here already, and download it again if it is damaged.
        rolled_back: Also pull rolled-back releases that are complete on the remote: an installation that takes the
            model over must not release the same again.
        is_ours: Returns True if this installation owns the model; called only if local changes would be discarded.

    Returns:
        `{"release", "files", "bytes", "moved"}`.

    Raises:
        NotFoundError: The remote has none.
        CheckError: A downloaded file has the wrong checksum; the served release is unchanged.
        UnpushedChangesError: This installation owns the model and has unpushed changes; nothing was changed.
        ConflictError: Another process is changing the releases.
    """
    root = f"{REALTIME}/{folder.name}"
    seen = remote.read(f"{root}/CURRENT")
    if seen is None:
        raise NotFoundError(f"The remote has no release of {folder.name}.", remedy="Release and push first.")
    theirs = pointer_from_json(seen[0], what=f"The remote's {root}/CURRENT")
    assert theirs.current is not None
    rollout = read_remote_rollout(folder, remote)
    rolled_out = running_rollout(rollout, theirs)
    wanted = [_read_description(folder, remote, theirs.current)]
    if rolled_out is not None:
        wanted.append(_read_description(folder, remote, rolled_out.release))
    not_again = _rolled_back_releases(folder, remote, theirs, rollout) if rolled_back else []
    with lock_releases(folder, action="pull"):
        before = _read_local_pointer(folder, verify=verify)
        if would_discard_local_changes(folder, before, theirs, rollout) and is_ours():
            raise unpushed_changes_error(folder.name)
        for each in not_again:
            with suppress(CheckError, NotFoundError):
                _install_release(folder, remote, *each, verify=verify)
        travelled, *more = [_install_release(folder, remote, *each, verify=verify) for each in wanted]
        after = replace(theirs, last=max(before.last, theirs.last), generation=before.generation, home="")
        moved = bool(travelled) or after != before
        if moved:
            after = replace(after, generation=_next_generation(folder, before, theirs))
            write_current(folder, after)
            release_step("pointer moved")
        here = read_local_rollout(folder)
        if rollout is not None and (here is None or replicated_fields(here) != replicated_fields(rollout)):
            write_durably(rollout_file(folder), rollout_to_json(rollout))
        retire_releases(folder, after)
        release_step("retired")
    files = [content for each in (travelled, *more) for content in each.values()]
    return {"release": theirs.current, "files": len(files), "bytes": sum(map(len, files)), "moved": moved}


def _next_generation(folder: ReleaseFolder, before: ReleasePointer, theirs: ReleasePointer) -> int:
    """Return the generation of a pulled pointer; it continues the remote's if this installation pushed that."""
    is_from_here = theirs.home != "" and theirs.home == installation_of(folder)
    return max(before.generation + 1, theirs.generation if is_from_here else 0)


def _rolled_back_releases(
    folder: ReleaseFolder, remote: Folder, pointer: ReleasePointer, rollout: RolloutState | None
) -> list[tuple[Release, bytes]]:
    """Read the descriptions of releases that were rolled back, or returned and not yet marked, as far as present."""
    unmarked = [] if rollout is None or is_reconciled(rollout, pointer) else [rollout.release]
    found = []
    for number in (*pointer.bad, *unmarked):
        with suppress(DamagedError, NotFoundError):
            found.append(_read_description(folder, remote, number))
    return found


def _read_description(folder: ReleaseFolder, remote: Folder, number: int) -> tuple[Release, bytes]:
    """Read the description of a release on a remote, decoded and as bytes."""
    target = f"{REALTIME}/{folder.name}/releases/{number:08d}/{RELEASE_FILE}"
    found = remote.read(target)
    if found is None:
        raise _missing_file_error(target)
    return release_from_json(found[0], what=f"The remote's {target}"), found[0]


def _install_release(
    folder: ReleaseFolder, remote: Folder, release: Release, description: bytes, *, verify: bool
) -> dict[str, bytes]:
    """Download a release and move it into place, unless it is here already; return the downloaded files."""
    place = folder.release(release.number)
    if _is_installed(folder, release, description, verify=verify):
        return {}
    travelled = _fetch_files(remote, f"{REALTIME}/{folder.name}/releases/{release.number:08d}", release)
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


def _read_local_pointer(folder: ReleaseFolder, *, verify: bool) -> ReleasePointer:
    """Read the local pointer; with `verify`, a damaged one counts as empty."""
    try:
        return read_current(folder)
    except DamagedError:
        if not verify:
            raise
        return ReleasePointer()


def _is_installed(folder: ReleaseFolder, release: Release, description: bytes, *, verify: bool) -> bool:
    place = folder.release(release.number)
    file = place / RELEASE_FILE
    if not file.is_file() or file.read_bytes() != description:
        return False
    if verify:
        return all((place / name).is_file() and release_file_of((place / name).read_bytes()) == said
                   for name, said in release.files.items())  # fmt: skip
    return True


def _fetch_files(remote: Folder, target: str, release: Release) -> dict[str, bytes]:
    found = {}
    for name, said in release.files.items():
        read = remote.read(f"{target}/{name}")
        if read is None:
            raise _missing_file_error(f"{target}/{name}")
        if release_file_of(read[0]) != said:
            raise CheckError(
                f"The file {target}/{name} does not have the checksum that the release says.",
                remedy="What answers is unchanged. Pull again; if it repeats, release and push again.",
            )
        found[name] = read[0]
    return found


def _missing_file_error(name: str) -> NotFoundError:
    return NotFoundError(f"The remote has no file {name}.", remedy="It was removed; pull again.")
