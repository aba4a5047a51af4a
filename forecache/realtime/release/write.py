"""Write a release: stage its files, then move the folder into place; the lock of the releases; removal of old ones."""

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from forecache.base.errors import DamagedError
from forecache.base.files import move_durably, sync
from forecache.base.steps import release_step
from forecache.kit.versioned.pointer import lock_versions
from forecache.kit.versioned.retention import remove_old_versions
from forecache.realtime.release.folder import (
    ReleaseFolder,
    ReleasePointer,
    release_file_of,
)
from forecache.realtime.release.format import (
    BINS_FILE,
    CODE_FOLDER,
    MODEL_FILE,
    RELEASE_FILE,
    WARMUP_FILE,
    Release,
)
from forecache.realtime.release.rollout_state import read_rollout, running_rollout

KEEP = 10
"""Number of releases to keep; the current one and a candidate are kept, too, if they are older.

A reader holds the served one in memory; its worker processes read it again."""


def write_release(
    folder: ReleaseFolder,
    release: Release,
    *,
    number: int,
    model: bytes,
    code: Mapping[str, bytes],
    warmup: Sequence[bytes] = (),
    bins: bytes | None = None,
) -> Release:
    """Write the files of a release, which answers no requests yet; the caller holds the lock.

    After a kill at any moment, of the process or the machine, the release is here whole or not at all.

    Args:
        release: Without number and files.
        number: From the state in the lake, which gives none twice.
        bins: A `DriftReference` as JSON, to compare live features and scores with.
    """
    files = {f"{CODE_FOLDER}/{path}": content for path, content in code.items()}
    files |= {MODEL_FILE: model, WARMUP_FILE: json.dumps([each.decode() for each in warmup]).encode()}
    files |= {} if bins is None else {BINS_FILE: bins}
    written = replace(release, number=number, files={name: release_file_of(content) for name, content in files.items()})
    complete = stage_files(folder, {**files, RELEASE_FILE: written.to_json()})
    release_step("staged")
    move_durably(complete, folder.release(number))
    release_step("moved")
    return written


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
    needed = (*folder.numbers()[-KEEP:], pointer.current, rollout.release if rollout else None)
    remove_old_versions(folder, keep=0, needed=needed)


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
