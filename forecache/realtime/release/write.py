"""Write a release: stage its files, move the folder into place, then move the pointer; and roll back."""

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from forecache.base.errors import ConflictError, DamagedError, NotFoundError
from forecache.base.files import move_durably, sync
from forecache.base.steps import release_step
from forecache.kit.versioned.pointer import lock_versions
from forecache.kit.versioned.retention import remove_old_versions
from forecache.realtime.release.folder import (
    ReleaseFolder,
    ReleasePointer,
    read_current,
    release_file_of,
    write_current,
)
from forecache.realtime.release.format import (
    BINS_FILE,
    CODE_FOLDER,
    MODEL_FILE,
    RELEASE_FILE,
    WARMUP_FILE,
    Release,
)
from forecache.realtime.rollout.rollout_state import read_rollout, running_rollout

_KEEP = 10
"""Number of releases to keep, with the current one.

A reader holds the served one in memory; its worker processes read it again."""


def write_release(
    folder: ReleaseFolder,
    release: Release,
    *,
    model: bytes,
    code: Mapping[str, bytes],
    warmup: Sequence[bytes] = (),
    current: bool = True,
    bins: bytes | None = None,
) -> Release:
    """Write a release and make it the current one.

    After a kill at any moment, of the process or the machine, either the earlier or the new release is current.

    Args:
        release: Without number and files.
        code: Source by path, such as "shop/search.py".
        warmup: Requests in the reader's own JSON that warm the release before it answers.
        current: If False, the earlier release stays current, and this one is to be rolled out.
        bins: A `DriftReference` as JSON, to compare live features and scores with.

    Returns:
        The release as it was written.

    Raises:
        ConflictError: Another process is writing one.
    """
    files = {f"{CODE_FOLDER}/{path}": content for path, content in code.items()}
    files |= {MODEL_FILE: model, WARMUP_FILE: json.dumps([each.decode() for each in warmup]).encode()}
    files |= {} if bins is None else {BINS_FILE: bins}
    with lock_releases(folder, action="release"):
        pointer = read_current(folder)
        number = max([pointer.last, *folder.numbers()]) + 1
        written = replace(
            release, number=number, files={name: release_file_of(content) for name, content in files.items()}
        )
        complete = stage_files(folder, {**files, RELEASE_FILE: written.to_json()})
        release_step("staged")
        move_durably(complete, folder.release(number))
        release_step("moved")
        leads_to = number if current else pointer.current
        pointer = replace(pointer, current=leads_to, last=number, generation=pointer.generation + 1)
        write_current(folder, pointer)
        release_step("pointer moved")
        retire_releases(folder, pointer)
        release_step("retired")
    return written


def move_pointer(
    folder: ReleaseFolder, number: int, *, leave: bool = False, seen: ReleasePointer | None = None
) -> ReleasePointer:
    """Make an existing release current; the caller has verified its files.

    Args:
        leave: Mark the release that was current, and those after `number`, as bad.
        seen: The pointer that the decision was based on.

    Raises:
        NotFoundError: There is no such release here.
        ConflictError: Another process is writing one, or has made another one current since `seen`; or, without
            `leave`, `number` was rolled back meanwhile.
    """
    with lock_releases(folder, action="rollback"):
        pointer = read_current(folder)
        if seen is not None and pointer.current != seen.current:
            raise ConflictError(
                f"Release {pointer.current} of {folder.name} has become current meanwhile; nothing was changed.",
                remedy="Run it again where that one is to go, too.",
            )
        if not folder.release(number).is_dir():
            raise NotFoundError(f"There is no release {number} of {folder.name}.")
        if not leave:
            check_not_bad(folder, pointer, number)
        left = {each for each in folder.numbers() if each > number or each == pointer.current} if leave else set()
        bad = tuple(sorted({*pointer.bad, *left} - {number}))
        moved = replace(pointer, current=number, bad=bad, generation=pointer.generation + 1)
        write_current(folder, moved)
        release_step("pointer moved")
    return moved


def check_not_bad(folder: ReleaseFolder, pointer: ReleasePointer, number: int) -> None:
    """Raise `ConflictError` if a release that is about to become current has been marked as bad."""
    if number in pointer.bad:
        raise ConflictError(
            f"Release {number} of {folder.name} was rolled back, or returned, meanwhile; nothing was changed.",
            remedy=f"`forecache release {folder.name} --again` releases it all the same.",
        )


@contextmanager
def lock_releases(folder: ReleaseFolder, *, action: str) -> Iterator[None]:
    """Hold the lock of a model's releases, after cleaning up after a killed writer.

    Raises:
        ConflictError: Another process holds the lock for too long.
    """

    with lock_versions(folder, action=action):
        for left in folder.staging.iterdir():
            shutil.rmtree(left, ignore_errors=True)
        release_step("locked")
        yield


def retire_releases(folder: ReleaseFolder, pointer: ReleasePointer) -> None:
    """Remove all but the newest releases, the current one and one being rolled out; the caller holds the lock."""
    try:
        rollout = running_rollout(read_rollout(folder), pointer)
    except DamagedError:
        return  # the release being rolled out is unknown, so keep all; the pointer has moved already
    remove_old_versions(folder, keep=_KEEP - 1, needed=(pointer.current, rollout.release if rollout else None))


def stage_files(folder: ReleaseFolder, files: Mapping[str, bytes]) -> Path:
    """Write a staging folder with these files, synced to the disk."""
    place = folder.staging / secrets.token_hex(8)
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sync(path)
    for below in {parent for name in files for parent in (place / name).parents if place in (parent, *parent.parents)}:
        sync(below)
    return place
