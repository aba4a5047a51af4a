"""The files of a store in its remote: a folder or bucket that has the truth, and of which each machine has a part.

<remote>/<pipeline>/CURRENT          the pointer, moved by compare-and-swap: versions, blocked ones, pin
<remote>/<pipeline>/versions/...     manifests, created and never replaced
<remote>/<pipeline>/segments/..., filters/..., LIVE   as in `forecache.serve.store.layout`
<remote>/.leases/store/<pipeline>.json   the lease of the process that changes the store
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from forecache.base.errors import ConflictError, DamagedError, NotFoundError
from forecache.base.files import move_durably, sync, write_durably
from forecache.base.folders import Folder, LocalFolder, open_folder
from forecache.base.results import Progress
from forecache.kit.versioned.blocks import missing_file_error
from forecache.kit.versioned.leases import surplus_versions
from forecache.kit.versioned.transfer import fetch_files, read_content
from forecache.serve.store.integrity import segment_files, version_files
from forecache.serve.store.layout import REALTIME, StoreLayout, remove_if_abandoned
from forecache.serve.store.live.layer import layer_from_json, write_layer
from forecache.serve.store.manifest import Manifest, manifest_from_json
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.read.snapshot import Snapshot

RETIRED_S = 3600.0
"""How long the files of a retired version stay, for replicas that are pulling it.

The machine that removes them compares its clock with that of the one that retired the version: the two clocks may
differ by this time less that of a pull.
"""


def open_remote(uri: str, options: Mapping[str, str], *, patience_s: float | None = None) -> Folder:
    """Open the folder or bucket of pushed versions, named as in the store; raises SettingsError or UnavailableError."""
    return open_folder(uri, options, setting="FORECACHE_STORE_REMOTE", patience_s=patience_s)


def remote_pipelines(remote: Folder) -> list[str]:
    return sorted(name for name in remote.folders() if remote.size(f"{name}/CURRENT") is not None)


def list_remote_models(remote: Folder) -> list[str]:
    """List the real-time models that have a current release on a remote, in alphabetical order."""
    names = {name.split("/")[1] for name in remote.names(REALTIME) if name.endswith("/CURRENT")}
    return sorted(names)


def manifest_name(name: str, version: int) -> str:
    return f"{name}/versions/{version:08d}.json"


def read_remote_pointer(remote: Folder, name: str) -> Pointer | None:
    """The pointer of a store in a remote; None if the remote has no such store."""
    content = read_content(remote, f"{name}/CURRENT")
    return None if content is None else Pointer.from_json(content, what=f"The remote's {name}/CURRENT")


def list_remote_versions(remote: Folder, name: str) -> list[int]:
    """The numbers of all manifests in a remote, also of publishes that were killed."""
    names = [file.rpartition("/")[2] for file in remote.names(f"{name}/versions")]
    return sorted(int(file[:8]) for file in names if re.fullmatch(r"\d{8}\.json", file))


def read_remote_manifest(remote: Folder, name: str, version: int) -> Manifest:
    """A manifest in a remote; raises NotFoundError or DamagedError."""
    file = manifest_name(name, version)
    content = read_content(remote, file)
    if content is None:
        raise missing_file_error(file)
    return manifest_from_json(content, what=f"The remote's {file}")


def create_manifest(remote: Folder, manifest: Manifest) -> None:
    """Create a manifest; raises ConflictError if its number was used for another content."""
    name, content = manifest_name(manifest.pipeline, manifest.version), manifest.to_json()
    if remote.swap(name, content, None) is not None:
        return
    found = remote.read(name)
    if found is None or found[0] != content:
        with suppress(DamagedError):  # a damaged one is replaced
            if found is None or manifest_from_json(found[0]).identity != manifest.identity:
                raise moved_by_another_error(manifest.pipeline)
            raise ConflictError(
                f"The remote has another version {manifest.version} of {manifest.pipeline} than this machine.",
                remedy=f"`forecache store pull {manifest.pipeline}` brings it here.",
            )
        assert found is not None
        if remote.swap(name, content, found[1]) is None:
            raise moved_by_another_error(manifest.pipeline)


def put_manifest(layout: StoreLayout, manifest: Manifest) -> None:
    """Write a manifest here, if it is not here with the same content; a replaced one has no files here."""
    if not has_manifest(layout, manifest):
        layout.lease(manifest.version).unlink(missing_ok=True)
        write_durably(layout.manifest(manifest.version), manifest.to_json())


def has_manifest(layout: StoreLayout, manifest: Manifest) -> bool:
    """Return whether a version is known here with the same content, and not only with the same number."""
    try:
        return layout.manifest(manifest.version).read_bytes() == manifest.to_json()
    except FileNotFoundError:
        return False


def fetch_version(
    layout: StoreLayout, remote: Folder, manifest: Manifest, progress: Progress, *, is_served: bool
) -> tuple[int, int]:
    """Fetch the missing files of a version and verify them; returns the number of files, and the bytes copied.

    If it is about to be served, its other files are read and verified, too, and stay in memory.
    """
    fetched = fetch_segments(layout, remote, manifest, progress)
    if is_served:
        with Snapshot(layout, manifest) as snapshot:
            snapshot.warm()
    layout.lease(manifest.version).touch()
    if not has_manifest(layout, manifest):  # a replaced manifest makes readers open the version again
        write_durably(layout.manifest(manifest.version), manifest.to_json())
    return fetched


def fetch_segments(layout: StoreLayout, remote: Folder, manifest: Manifest, progress: Progress) -> tuple[int, int]:
    """Fetch the segments and the filter of a version that are missing; returns as `fetch_version`."""
    root = layout.name
    missing = [segment for segment in manifest.segments if not layout.has_segment(segment.id)]
    total = sum(segment.size_bytes for segment in missing) or 1
    files = travelled = 0

    def report(copied: int) -> None:
        nonlocal files, travelled
        files, travelled = files + 1, travelled + copied
        progress(f"Pulling version {manifest.version}", min(1.0, travelled / total))

    # The small ones first: with them and the filter, one block of the base has the answer for a key.
    for segment in sorted(missing, key=lambda segment: segment.kind == "base"):
        if segment.kind == "base":
            _fetch_filter(layout, remote, manifest, report)
        folder = layout.partial_segment(segment.id)
        folder.mkdir(exist_ok=True)
        there = {f"{root}/{name}": (folder / info.file, info) for _, name, info in segment_files(layout, segment)}
        fetch_files(remote, there, report)
        sync(folder)
        move_durably(folder, layout.segment(segment.id))
    _fetch_filter(layout, remote, manifest, report)
    return files, travelled


def _fetch_filter(layout: StoreLayout, remote: Folder, manifest: Manifest, report: Callable[[int], None]) -> None:
    info = manifest.filter
    if info is not None and not layout.filter(info.file).exists():
        fetch_files(remote, {f"{layout.name}/filters/{info.file}": (layout.staging / info.file, info)}, report)
        move_durably(layout.staging / info.file, layout.filter(info.file))


def fetch_hashes(layout: StoreLayout, remote: Folder, manifest: Manifest) -> None:
    """Fetch the filter of a version, and the key hashes of those deltas that are not here."""
    wanted = {}
    for segment in manifest.segments:
        folder, info = layout.partial_segment(segment.id), segment.hashes
        if info is not None and not layout.has_segment(segment.id):
            folder.mkdir(exist_ok=True)
            wanted[f"{layout.name}/segments/{segment.id}/{info.file}"] = (folder / info.file, info)
    fetch_files(remote, wanted, lambda copied: None)
    _fetch_filter(layout, remote, manifest, lambda copied: None)


def push_layer(layout: StoreLayout, remote: Folder, *, replaces: bool = True) -> None:
    """Copy the file LIVE of a store, if it is here, to a remote; replicas fill the layer from the stream.

    Without `replaces`, one that is there stays, as another machine may have declared it since.
    """
    name = f"{layout.name}/{layout.live.name}"
    with suppress(FileNotFoundError):
        content = layout.live.read_bytes()
        there = remote.read(name)
        if there is None or (replaces and there[0] != content):
            remote.write(name, content)


def pull_layer(layout: StoreLayout, remote: Folder) -> None:
    """Copy the file LIVE from a remote, or delete it here if the remote has none."""
    found = remote.read(f"{layout.name}/{layout.live.name}")
    if found is None:
        layout.live.unlink(missing_ok=True)
        return
    write_layer(layout, layer_from_json(found[0], what=f"The remote's {layout.name}/{layout.live.name}"))


def follow_pointer(name: str, here: Pointer, theirs: Pointer) -> Pointer:
    """The next pointer of a machine that follows a remote: the remote's, with what was blocked and pinned here alone.

    Raises ConflictError if a version of another store is pinned here.
    """
    if here.store == theirs.store and here.descends_from(theirs) and not theirs.descends_from(here):
        return replace(here, versions=theirs.versions)  # the next change brings it to the remote
    last = max(here.last, theirs.last) if here.store == theirs.store else theirs.last
    after = replace(theirs, last=last, generation=max(here.generation, theirs.generation) + 1)
    if here.store != theirs.store:
        if here.pinned is None or theirs.descends_from(here):
            return after
        raise ConflictError(
            f"Version {here.pinned} of {name} is pinned here, and the remote's store has taken the place of "
            "the one that it is of.",
            remedy=f"`forecache store unpin {name}`, then pull again.",
        )
    if theirs.descends_from(here):
        return after
    bad, current = {**here.bad, **theirs.bad}, theirs.current
    if str(current) in bad:
        earlier = [each for each in theirs.retained_versions if each < (current or 0) and str(each) not in bad]
        if earlier:
            current = earlier[-1]
        else:  # nothing else can be served: as any rollback without a target, the one made here does not count
            bad.pop(str(current))
    after = replace(after, bad=bad, current=current)
    return after if here.pinned is None else after.advance(pinned=here.pinned)


def find_newest(name: str, here: Pointer, there: Pointer, *, replaces_remote: bool) -> Pointer:
    """The state of a store to start from, by what is here and in the remote.

    Raises ConflictError if this machine has a store, or a version, that the remote does not have and never had.
    """
    if replaces_remote:
        now = time.time()
        retired = {number: since or now for number, since in there.versions.items()}
        return replace(here, pinned=None, last=max(here.last, there.last), moves=there.moves, versions=retired)
    if not here.store or there.descends_from(here):
        return there
    if here.descends_from(there):
        return replace(here, versions=there.versions)
    if here.store == there.store and str(here.current) in here.versions:
        # A rollback, a pin or a block was made here while the remote could not be reached.
        return follow_pointer(name, here, there).advance()
    raise ConflictError(
        f"The remote has another store of {name} than this machine, or other versions of it.",
        remedy=f"What is there stands. `forecache store pull {name}` brings it here; then publish again. "
        f"`forecache publish {name} --replace-remote` puts what this home has in its place.",
    )


def retire(pointer: Pointer, added: Iterable[int], *, keep: int | None) -> Pointer:
    """The pointer with its list of versions as of now: with the added ones, and without those to be removed.

    Versions beyond the newest `keep` (None: all) besides the current and the pinned one are retired, and leave the list
    `RETIRED_S` later.
    """
    now = time.time()
    versions = {**pointer.versions, **{str(number): 0.0 for number in added}}
    retained = [int(number) for number, since in versions.items() if not since]
    if keep is not None:
        for number in surplus_versions(retained, keep=keep, needed=(pointer.current, pointer.pinned)):
            versions[str(number)] = now
    versions = {number: since for number, since in versions.items() if not since or now - since < RETIRED_S}
    return replace(pointer, versions=versions)  # its blocked versions stay: a machine may have the files of any version


def remove_unused(remote: Folder, name: str, pointer: Pointer) -> None:
    """Delete the files of versions that a pointer does not list, where it is the remote's: of retired versions, and of
    publishes that were killed.

    Files with a number above the pointer's last stay: another publisher may be about to push them. Deletes nothing
    while a manifest is damaged.
    """
    try:
        manifests = [read_remote_manifest(remote, name, int(number)) for number in pointer.versions]
    except (DamagedError, NotFoundError):
        return
    layout = StoreLayout(Path(name))
    needed = {f"{name}/{file}" for each in manifests for _, file, _ in version_files(layout, each)}
    unused = []
    for file in remote.names(name):
        found = re.fullmatch(rf"{name}/(versions|segments|filters)/\.?(\d{{8}})[-.].*", file)
        if found is None or int(found[2]) > pointer.last or file in needed:
            continue
        if found[1] != "versions" or str(int(found[2])) not in pointer.versions:
            unused.append(file)
    remote.delete(sorted(unused))


def remove_unfinished(remote: Folder, name: str) -> None:
    """Delete unfinished files of killed processes in a folder; a bucket never shows a part of a file."""
    for path in (remote.root / name).rglob(".*.tmp*") if isinstance(remote, LocalFolder) else ():
        remove_if_abandoned(path)


def moved_by_another_error(name: str) -> ConflictError:
    return ConflictError(
        f"The remote's {name}/CURRENT was moved by another publisher, from a state that this home has not seen.",
        remedy="What is there stands. Run again: that starts from it.",
    )
