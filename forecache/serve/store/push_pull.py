"""Distribution: a publisher pushes versions to a remote, replicas on other machines pull them.

Segments never change and their names are unique, so only missing ones are copied; a version with small changes is one
small segment. A manifest is created and never replaced. The pointer moves last on both sides. A remote has the pointer
of the installation that pushed last; another one may move it only if it has pulled that state.
"""

from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from forecache.base.errors import ConflictError, DamagedError, NotFoundError
from forecache.base.files import move_durably, sync, write_durably
from forecache.base.folders import Folder
from forecache.base.plugins import load_hook
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import push_step
from forecache.base.table_names import NAME
from forecache.declare import Served
from forecache.kit.versioned.pointer import lock_versions, write_pointer
from forecache.kit.versioned.transfer import (
    fetch_files,
    missing_file_error,
    read_content,
    read_replica_pointer,
    swap_file,
    upload_missing,
)
from forecache.serve.store.integrity import segment_files, verify_filter, verify_segment, version_files
from forecache.serve.store.layout import StoreLayout, remove_tree, targets_lock
from forecache.serve.store.live.layer import layer_from_json, list_stores_with_layers, write_layer
from forecache.serve.store.live.reader import wait_until_applied
from forecache.serve.store.manifest import Manifest, manifest_from_json
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.read.snapshot import Snapshot
from forecache.serve.store.remote import (
    manifest_name,
    moved_by_another_error,
    open_remote,
    pull_quarantine,
    push_quarantine,
    remove_retired,
    remove_unfinished,
    require_descendant,
)
from forecache.serve.store.store import Store, open_store, remove_leftovers, retire_versions


def push_layer(store: Store, remote: Folder) -> None:
    """Copy the file LIVE of a store to a remote, or delete it there; replicas fill the layer from the stream."""
    name = f"{store.pipeline}/{store.layout.live.name}"
    try:
        content = store.layout.live.read_bytes()
    except FileNotFoundError:
        if remote.size(name) is not None:
            remote.delete([name])
        return
    there = remote.read(name)
    if there is None or there[0] != content:
        remote.write(name, content)


def pull_layer(store: Store, remote: Folder) -> None:
    """Copy the file LIVE from a remote, or delete it here if the remote has none."""
    layout = store.layout
    found = remote.read(f"{store.pipeline}/{layout.live.name}")
    if found is None:
        layout.live.unlink(missing_ok=True)
        return
    write_layer(layout, layer_from_json(found[0], what=f"The remote's {store.pipeline}/{layout.live.name}"))


def push_stream_only_stores(settings: Settings, remote: Folder) -> list[str]:
    """Push the live layers of stores without published versions; returns their names."""
    stores = [open_store(settings, name) for name in list_stores_with_layers(settings.store_path)]
    alone = [store for store in stores if store.pointer().current is None]
    for store in alone:
        push_layer(store, remote)
    return [store.pipeline for store in alone]


def pull_stream_only_stores(settings: Settings, remote: Folder) -> list[str]:
    """Pull the live layers of stores without published versions; returns their names."""
    names = [
        name
        for name in sorted(remote.folders())
        if NAME.fullmatch(name) and remote.size(f"{name}/CURRENT") is None and remote.size(f"{name}/LIVE") is not None
    ]
    for name in names:
        store = open_store(settings, name)
        with lock_versions(store.layout, action="pull"):
            pull_layer(store, remote)
    return names


def fetch_manifests(remote: Folder, root: str, theirs: Pointer) -> list[Manifest]:
    """The manifest of the version that a remote serves, and of its current one if another one is pinned there."""
    assert theirs.serving is not None
    found = []
    for number in dict.fromkeys((theirs.serving, theirs.serving if theirs.current is None else theirs.current)):
        name = manifest_name(root, number)
        content = read_content(remote, name)
        if content is None:
            if number == theirs.serving:
                raise missing_file_error(name)
            continue
        manifest = manifest_from_json(content, what=f"The remote's {name}")
        if manifest.store != theirs.store:
            raise NotFoundError(f"The remote's {root} is about to be replaced.", remedy="Pull again.")
        found.append(manifest)
    return found


def has_version(layout: StoreLayout, manifest: Manifest) -> bool:
    """Return whether a version exists here with the same content, and not only with the same number."""
    try:
        return layout.manifest(manifest.version).read_bytes() == manifest.to_json()
    except FileNotFoundError:
        return False


def discard_damaged(layout: StoreLayout, manifest: Manifest) -> None:
    """Delete local files of a version whose checksum differs from the manifest, so that the pull fetches them again."""
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


def fetch_segments(
    layout: StoreLayout, remote: Folder, root: str, manifest: Manifest, progress: Progress
) -> tuple[int, int]:
    missing = [segment for segment in manifest.segments if not layout.segment(segment.id).exists()]
    total = sum(segment.size_bytes for segment in missing) or 1
    files = travelled = 0

    def report(copied: int) -> None:
        nonlocal files, travelled
        files, travelled = files + 1, travelled + copied
        progress(f"Pulling version {manifest.version}", min(1.0, travelled / total))

    for segment in missing:
        folder = layout.staging / f"pull-{segment.id}"
        folder.mkdir(exist_ok=True)
        there = {f"{root}/{name}": (folder / info.file, info) for _, name, info in segment_files(layout, segment)}
        fetch_files(remote, there, report)
        sync(folder)
        move_durably(folder, layout.segment(segment.id))
    info = manifest.filter
    if info is not None and not layout.filter(info.file).exists():
        fetch_files(remote, {f"{root}/filters/{info.file}": (layout.staging / info.file, info)}, report)
        move_durably(layout.staging / info.file, layout.filter(info.file))
    return files, travelled


_PULL_TRIES = 3


def push(store: Store, remote: Folder, *, keep: int | None = None, progress: Progress = no_progress) -> dict[str, Any]:
    """Update a remote to the served version: missing files, then the manifest, then the pointer.

    Another push of this store, as by a publish, waits meanwhile; the version is kept until the push ends. `keep` is how
    many versions the remote retains besides the current and the pinned one; None: all. Returns `{"version", "files",
    "bytes"}`: the version that the remote serves, and what was copied. Raises ConflictError if another installation
    pushed a state that this one has not pulled, and NotFoundError if nothing is published; the remote is unchanged.
    """
    if store.current() is None:
        raise NotFoundError(f"Nothing is published for {store.pipeline}.", remedy="Publish first.")
    with targets_lock(store.layout, progress), ExitStack() as opened:
        pointer, manifests = _open_served(store, opened)
        return _push(store, pointer, manifests, remote, keep, progress)


def _open_served(store: Store, opened: ExitStack) -> tuple[Pointer, list[Manifest]]:
    """The pointer and the manifests of the served version and, if another one is pinned, of the current one."""
    while True:
        pointer = store.pointer()
        assert pointer.serving is not None
        try:
            manifests = [opened.enter_context(store.snapshot(pointer.serving)).manifest]
        except NotFoundError:
            if store.pointer() == pointer:
                raise
            continue  # a publish that retains no older version has removed it meanwhile
        if pointer.current not in (None, pointer.serving):
            with suppress(DamagedError, NotFoundError):  # damage may be the reason for the pin
                manifests.append(opened.enter_context(store.snapshot(pointer.current)).manifest)
        return pointer, manifests


def _push(
    store: Store, pointer: Pointer, manifests: list[Manifest], remote: Folder, keep: int | None, progress: Progress
) -> dict[str, Any]:
    root = store.pipeline
    seen = remote.read(f"{root}/CURRENT")
    there = Pointer.from_json(seen[0]) if seen else None
    require_descendant(root, pointer, there)
    push_step("remote read")
    remove_unfinished(remote, root)
    for manifest in manifests:
        _read_replaceable(remote, manifest, there)
    files = {
        f"{root}/{name}": (path, info)
        for manifest in manifests
        for path, name, info in version_files(store.layout, manifest)
    }
    what = f"Pushing version {manifests[0].version} to the remote"
    uploaded, done = upload_missing(remote, files, lambda share: progress(what, share))
    push_step("uploaded")
    for manifest in manifests:
        found = _read_replaceable(remote, manifest, there)
        if not swap_file(remote, manifest_name(root, manifest.version), manifest.to_json(), found):
            remote.delete(uploaded)  # no manifest names them
            raise moved_by_another_error(root)
    push_step("manifest created")
    push_layer(store, remote)
    lifted = push_quarantine(store, remote)
    if not swap_file(remote, f"{root}/CURRENT", pointer.to_json(), seen):
        raise moved_by_another_error(root)
    push_step("pointer moved")
    remote.delete(lifted)
    if keep is not None:
        remove_retired(store.layout, remote, pointer, keep=keep)
    return {"version": manifests[0].version, "files": len(uploaded), "bytes": done}


def _read_replaceable(remote: Folder, manifest: Manifest, there: Pointer | None) -> tuple[bytes, Any] | None:
    """The remote's manifest of this version and its tag, if replaceable: equal, damaged or of a lost store.

    Raises ConflictError if another installation used the number for another content.
    """
    name = manifest_name(manifest.pipeline, manifest.version)
    found = remote.read(name)
    if found is None or found[0] == manifest.to_json():
        return found
    try:
        other = manifest_from_json(found[0], what=f"The remote's {name}")
    except DamagedError:
        return found
    if other.store != manifest.store and (there is None or there.store == manifest.store):
        return found
    raise moved_by_another_error(manifest.pipeline)


def pull(
    store: Store, remote: Folder, *, keep: int = 2, verify: bool = False, progress: Progress = no_progress
) -> dict[str, Any]:
    """Update a replica to the version that a remote serves: fetch missing files, check them, warm them, flip.

    An interrupted pull resumes where it stopped. A version that the replica has pinned stays served. If the remote's
    store is another one than the replica's, as after a publisher's store was lost and published anew, its versions
    replace the replica's. With `verify`, local files are read too, and damaged ones fetched again. Returns `{"version",
    "files", "bytes", "moved"}`: the version that the replica serves, what was copied, and whether the served version
    has changed.

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
    # The publisher retired the version during each pull.
    return _pull(store, remote, keep, verify, progress)


def _pull(store: Store, remote: Folder, keep: int, verify: bool, progress: Progress) -> dict[str, Any]:
    root, layout = store.pipeline, store.layout
    content = read_content(remote, f"{root}/CURRENT")
    if content is None:
        raise NotFoundError(f"The remote serves nothing for {root}.", remedy="Publish and push first.")
    theirs = Pointer.from_json(content)
    with lock_versions(layout, action="pull"):
        pull_layer(store, remote)
        pointer = read_replica_pointer(layout, verify=verify)
        manifests = fetch_manifests(remote, root, theirs)
        served = manifests[0]
        is_here = all(has_version(layout, manifest) for manifest in manifests)
        same = (pointer.store, pointer.current) == (theirs.store, theirs.current) and pointer.descends_from(theirs)
        if same and is_here and not verify:
            _clean_and_retire(store, keep)  # after a pull that was killed once it had moved the pointer
            return {"version": served.version, "files": 0, "bytes": 0, "moved": False}
        after = _next_replica_pointer(root, pointer, theirs)
        files = travelled = 0
        for manifest in manifests:
            if verify:
                discard_damaged(layout, manifest)
            fetched = fetch_segments(layout, remote, root, manifest, progress)
            files, travelled = files + fetched[0], travelled + fetched[1]
            with Snapshot(layout, manifest) as snapshot:
                snapshot.warm()
            layout.lease(manifest.version).touch()
            if not has_version(layout, manifest):  # a replaced manifest makes readers open the version again
                write_durably(layout.manifest(manifest.version), manifest.to_json())
        if not same:
            pull_quarantine(layout, remote, lift=pointer.store != theirs.store or theirs.descends_from(pointer))
            # As in a publish; if this version is an older one, the tailer first restores rows that it had removed.
            wait_until_applied(layout, served.cut)
            write_pointer(layout, after)
        _clean_and_retire(store, keep)
    is_served = is_here and (pointer.store, pointer.serving) == (after.store, after.serving)
    return {"version": served.version, "files": files, "bytes": travelled, "moved": not (same or is_served)}


def _next_replica_pointer(root: str, pointer: Pointer, theirs: Pointer) -> Pointer:
    """The next pointer of a replica: the remote's, with a version that is pinned only here; raises ConflictError."""
    last = max(pointer.last, theirs.last) if pointer.store == theirs.store else theirs.last
    after = replace(theirs, last=last, generation=max(pointer.generation, theirs.generation) + 1)
    if pointer.pinned is None or theirs.descends_from(pointer):
        return after
    if pointer.store != theirs.store:
        raise ConflictError(
            f"Version {pointer.pinned} of {root} is pinned here, and the remote's store has taken the place of "
            "the one that it is of.",
            remedy=f"`forecache unpin {root}`, then pull again.",
        )
    return after.advance(pinned=pointer.pinned)


def _clean_and_retire(store: Store, keep: int) -> None:
    remove_leftovers(store)
    retire_versions(store, keep=keep)


def sync_targets(
    settings: Settings, pipeline: Served | None, store: Store, progress: Progress = no_progress
) -> dict[str, Any]:
    """Update Redis and the remote to the version served here, after a publish, rollback or pin; returns results by
    name.

    Idempotent. Each target serves its old version until the new one is complete and verified there. The caller holds
    the store's lock. A pipeline that is not declared any more (None) is not updated in Redis.
    """
    done: dict[str, Any] = {}
    if pipeline is not None and pipeline.publish is not None and pipeline.publish.backend == "redis":
        done["redis"] = load_hook("redis", "open_store")(settings, pipeline.name).load(store, progress=progress)
    if settings.store_remote:
        remote = open_remote(settings.store_remote, settings.storage_options)
        keep = None if pipeline is None else pipeline.publishing.keep
        done["remote"] = push(store, remote, keep=keep, progress=progress)
        push_stream_only_stores(settings, remote)
    return done


def sync_served(
    settings: Settings, pipeline: Served | None, store: Store, progress: Progress = no_progress
) -> dict[str, Any]:
    """`sync_targets` under the store's lock, so that it overwrites no newer publish; {} if nothing is served."""
    with lock_versions(store.layout, action="sync"):
        return {} if store.pointer().serving is None else sync_targets(settings, pipeline, store, progress)
