"""Retention in a remote: removal of retired versions, and of leftovers of killed pushes."""

import time
from contextlib import suppress

from forecache.base.errors import DamagedError
from forecache.base.folders import Folder, LocalFolder
from forecache.kit.versioned.transfer import read_content
from forecache.serve.store.integrity import version_files
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.manifest import Manifest, manifest_from_json
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.replicas.remote_files import manifest_name, quarantine_name, remote_versions

_UNFINISHED_S = 3600.0
"""A temporary file of this age belongs to no running push."""


def remove_retired(layout: StoreLayout, remote: Folder, pointer: Pointer, *, keep: int) -> None:
    """Delete the versions of a remote beyond the newest `keep` besides the current and the pinned one.

    Also deletes their files that no other version there uses. Files that no manifest names are kept: another
    installation may be about to push them. Deletes nothing while a manifest is damaged, or if another installation has
    moved the pointer meanwhile.
    """
    name = layout.root.name
    numbers = sorted(remote_versions(remote, name))
    others = [number for number in numbers if number not in (pointer.current, pointer.pinned)]
    retired = set(others[: max(0, len(others) - keep)])
    if not retired:
        return
    try:
        manifests = [
            manifest for number in numbers if (manifest := _read_remote_manifest(remote, name, number)) is not None
        ]
    except DamagedError:
        return
    needed = {file for each in manifests if each.version not in retired for file in _version_file_names(layout, each)}
    unneeded = {
        file for each in manifests if each.version in retired for file in _version_file_names(layout, each)
    } - needed
    if read_content(remote, f"{name}/CURRENT") != pointer.to_json():
        return
    gone = [manifest_name(name, number) for number in sorted(retired)]
    remote.delete([*gone, *(quarantine_name(name, number) for number in sorted(retired))])
    if isinstance(remote, LocalFolder):
        remote.delete([f"{name}/versions/.{number:08d}.json.lock" for number in sorted(retired)])
    remote.delete(sorted(unneeded))


def remove_unfinished(remote: Folder, name: str) -> None:
    """Delete unfinished files of killed processes in a folder; a bucket never shows a part of a file."""
    if not isinstance(remote, LocalFolder):
        return
    for path in (remote.root / name).rglob(".*.tmp*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _UNFINISHED_S:
                path.unlink()


def _read_remote_manifest(remote: Folder, name: str, number: int) -> Manifest | None:
    content = read_content(remote, manifest_name(name, number))
    return None if content is None else manifest_from_json(content, what=f"The remote's version {number} of {name}")


def _version_file_names(layout: StoreLayout, manifest: Manifest) -> set[str]:
    return {f"{layout.root.name}/{file}" for _, file, _ in version_files(layout, manifest)}
