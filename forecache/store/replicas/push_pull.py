"""Distribution: a publisher pushes versions to a remote, replicas on other machines pull them.

Segments never change and their names are unique, so only those that the other side lacks travel; a night of small
changes travels as one small segment. The pointer moves last on both sides.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from forecache.errors import CheckError, ConflictError, DamagedError, NotFoundError
from forecache.files import move_durably, sync, write_durably
from forecache.folders import Folder
from forecache.results import Progress, no_progress
from forecache.store.content_hash import file_checksum
from forecache.store.integrity import segment_files, verify_filter, verify_segment, version_files
from forecache.store.layout import Layout, remove_tree
from forecache.store.live.catch_up import wait_until_applied
from forecache.store.locks import publisher_lock, targets_lock
from forecache.store.manifest import Manifest, ShardInfo
from forecache.store.manifest_json import manifest_from_json
from forecache.store.pointer import Pointer, pointer_from_json, read_pointer, write_pointer
from forecache.store.read.snapshot import Snapshot
from forecache.store.replicas.forget import forget
from forecache.store.replicas.layer import pull_layer, push_layer
from forecache.store.retention import clean, retire
from forecache.store.store import Store

_TRANSFERS, _PULL_TRIES = 4, 3


def push(store: Store, remote: Folder, *, progress: Progress = no_progress) -> dict[str, Any]:
    """Bring a remote up to the served version: missing files, then the manifest, then the pointer.

    Another push of this store, as of a publish, waits meanwhile; the version is kept until it is there.

    Returns:
        `{"version", "files", "bytes"}`: what the remote serves now and what travelled.

    Raises:
        ConflictError: Another publisher moved the remote's pointer meanwhile.
        NotFoundError: Nothing is published.
    """
    if store.current() is None:
        raise NotFoundError(f"Nothing is published for {store.pipeline}.", remedy="Publish first.")
    with targets_lock(store.layout, progress), store.snapshot() as snapshot:
        return _push(store, snapshot.manifest, remote, progress)


def _push(store: Store, manifest: Manifest, remote: Folder, progress: Progress) -> dict[str, Any]:
    root = store.pipeline
    seen = remote.read(f"{root}/CURRENT")
    before = pointer_from_json(seen[0]) if seen else Pointer()
    missing = [
        (path, f"{root}/{name}", info)
        for path, name, info in version_files(store.layout, manifest)
        if remote.size(f"{root}/{name}") != info.size_bytes
    ]
    done = 0
    total = sum(info.size_bytes for _, _, info in missing) or 1
    with ThreadPoolExecutor(_TRANSFERS) as threads:
        uploads = [(threads.submit(remote.upload, path, name), info) for path, name, info in missing]
        for upload, info in uploads:
            upload.result()
            done += info.size_bytes
            progress(f"Pushing version {manifest.version} to the remote", done / total)
    manifest_name = f"{root}/versions/{store.layout.manifest(manifest.version).name}"
    if (remote.read(manifest_name) or (b"",))[0] != manifest.to_json():
        remote.write(manifest_name, manifest.to_json())
    push_layer(store, remote)
    if (before.store, before.current) != manifest.identity:
        last = max(before.last, manifest.version) if before.store == manifest.store else manifest.version
        after = before.moved(store=manifest.store, current=manifest.version, pinned=None, last=last)
        if remote.swap(f"{root}/CURRENT", after.to_json(), seen[1] if seen else None) is None:
            raise ConflictError(
                f"The remote's {root}/CURRENT was moved by another publisher meanwhile.",
                remedy="Its version stands; publish again.",
            )
    forget(store, remote)
    return {"version": manifest.version, "files": len(missing), "bytes": done}


def pull(
    store: Store, remote: Folder, *, keep: int = 2, verify: bool = False, progress: Progress = no_progress
) -> dict[str, Any]:
    """Bring a replica up to the version that a remote serves: fetch what is missing, check it, warm it, flip.

    A pull that broke off goes on where it stopped. A replica that has pinned a version goes on serving that. Where the
    remote's store is another one than the replica's, as after a publisher's store was lost and published anew, its
    versions take the place of the replica's.

    Args:
        verify: Read what is here already, too, and fetch anew what is damaged.

    Returns:
        `{"version", "files", "bytes", "moved"}`: what the replica serves now, what travelled, whether it is new.

    Raises:
        NotFoundError: The remote serves nothing for this pipeline.
        CheckError: A file does not have the manifest's checksum; what is served is untouched.
        ConflictError: Another pull or publish is changing this store, or a version of another store is pinned here.
    """
    for _ in range(_PULL_TRIES - 1):
        try:
            return _pull(store, remote, keep, verify, progress)
        except NotFoundError:
            if remote.read(f"{store.pipeline}/CURRENT") is None:
                raise
    # The publisher retired what was being pulled, and again.
    return _pull(store, remote, keep, verify, progress)


def _pull(store: Store, remote: Folder, keep: int, verify: bool, progress: Progress) -> dict[str, Any]:
    root, layout = store.pipeline, store.layout
    seen = remote.read(f"{root}/CURRENT")
    if seen is None:
        raise NotFoundError(f"The remote serves nothing for {root}.", remedy="Publish and push first.")
    theirs = pointer_from_json(seen[0])
    wanted = theirs.current
    assert wanted is not None
    with publisher_lock(layout, action="pull"):
        pull_layer(store, remote)
        pointer = _replica_pointer(layout, verify)
        same = (pointer.store, pointer.current) == (theirs.store, wanted)
        if same and not verify and layout.manifest(wanted).exists():
            _tidy(store, keep)  # a pull that died after it had moved the pointer
            return {"version": wanted, "files": 0, "bytes": 0, "moved": False}
        if pointer.store != theirs.store and pointer.pinned is not None:
            raise ConflictError(
                f"Version {pointer.pinned} of {root} is pinned here, and the remote's store has taken the place of "
                "the one that it is of.",
                remedy=f"`forecache unpin {root}`, then pull again.",
            )
        name = f"{root}/versions/{layout.manifest(wanted).name}"
        found = remote.read(name)
        if found is None:
            raise _gone(name)
        manifest = manifest_from_json(found[0], what=f"The remote's {name}")
        if manifest.store != theirs.store:
            raise NotFoundError(f"The remote's {name} is about to be replaced.", remedy="Pull again.")
        if verify:
            _discard_damaged(layout, manifest)
        files, travelled = _fetch_segments(layout, remote, root, manifest, progress)
        with Snapshot(layout, manifest) as snapshot:
            snapshot.warm()
        if pointer.store != theirs.store:
            layout.quarantine(wanted).unlink(missing_ok=True)  # it was about another store's version of this number
        layout.lease(wanted).touch()
        write_durably(layout.manifest(wanted), found[0])
        if not same:
            # As in a publish; and where this version is an older one, the tailer brings back what it had removed.
            wait_until_applied(layout, manifest.cut)
            last = max(pointer.last, wanted) if pointer.store == theirs.store else wanted
            write_pointer(layout, pointer.moved(store=theirs.store, current=wanted, last=last))
        _tidy(store, keep)
    return {"version": wanted, "files": files, "bytes": travelled, "moved": not same}


def _tidy(store: Store, keep: int) -> None:
    clean(store)
    retire(store, keep=keep)


def _replica_pointer(layout: Layout, verify: bool) -> Pointer:
    """The replica's pointer; an empty one where it is damaged and what is damaged is to be fetched anew."""
    try:
        return read_pointer(layout)
    except DamagedError:
        if not verify:
            raise
        return Pointer()


def _discard_damaged(layout: Layout, manifest: Manifest) -> None:
    """Remove what is here of a version and is not what the manifest says, so that it is fetched."""
    for segment in manifest.segments:
        try:
            verify_segment(layout, segment)
        except DamagedError:
            remove_tree(layout.segment(segment.id))
    try:
        verify_filter(layout, manifest)
    except DamagedError:
        assert manifest.filter is not None
        layout.filter(manifest.filter.file).unlink(missing_ok=True)


def _fetch_segments(
    layout: Layout, remote: Folder, root: str, manifest: Manifest, progress: Progress
) -> tuple[int, int]:
    """Fetch the segments and the filter that are missing; (files, bytes) that travelled."""
    missing = [segment for segment in manifest.segments if not layout.segment(segment.id).exists()]
    total = sum(segment.size_bytes for segment in missing) or 1
    files = travelled = 0
    for segment in missing:
        folder = layout.staging / f"pull-{segment.id}"
        folder.mkdir(exist_ok=True)
        infos = [info for _, _, info in segment_files(layout, segment)]
        with ThreadPoolExecutor(_TRANSFERS) as threads:
            transfers = [
                threads.submit(fetch_file, remote, f"{root}/segments/{segment.id}/{info.file}", folder, info)
                for info in infos
            ]
            for transfer in transfers:
                travelled += transfer.result()
                files += 1
                progress(f"Pulling version {manifest.version}", min(1.0, travelled / total))
        sync(folder)
        move_durably(folder, layout.segment(segment.id))
    info = manifest.filter
    if info is not None and not layout.filter(info.file).exists():
        travelled += fetch_file(remote, f"{root}/filters/{info.file}", layout.staging, info)
        files += 1
        move_durably(layout.staging / info.file, layout.filter(info.file))
    return files, travelled


def fetch_file(remote: Folder, name: str, folder: Path, info: ShardInfo) -> int:
    """Fetch one file, from where an earlier try stopped; returns the bytes that travelled.

    Raises:
        CheckError: What arrived does not have the checksum of the manifest; it is removed, so that a new try starts
            from nothing.
    """
    target, part = folder / info.file, folder / f"{info.file}.part"
    if target.exists():
        return 0
    start = part.stat().st_size if part.exists() else 0
    travelled = 0
    if start < info.size_bytes:
        try:
            with open(part, "ab") as file:
                for chunk in remote.chunks(name, start):
                    file.write(chunk)
                    travelled += len(chunk)
        except FileNotFoundError:
            raise _gone(name) from None
    sync(part)
    if part.stat().st_size != info.size_bytes or file_checksum(part) != info.checksum:
        part.unlink()
        raise CheckError(
            f"The file {name} does not have the checksum that the manifest says.",
            remedy="What is served is unchanged. Pull again; if it repeats, publish a full version.",
        )
    move_durably(part, target)
    return travelled


def _gone(name: str) -> NotFoundError:
    return NotFoundError(f"The remote has no file {name}.", remedy="It was removed; pull again.")
