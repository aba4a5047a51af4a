"""Distribution: replicas pull versions from a remote, and Redis and the remote are updated after a change.

Segments never change and their names are unique, so only missing ones are copied; a version with small changes is one
small segment. A manifest is created and never replaced. The pointer moves last on both sides.
"""

import logging
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from forecache.base.errors import ConflictError, DamagedError, ForecacheError, NotFoundError
from forecache.base.folders import Folder, LocalFolder
from forecache.base.plugins import load_hook
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.base.table_names import NAME, kept_name, split_kept_name
from forecache.declare import Served
from forecache.kit.versioned.pointer import lock_versions, write_pointer
from forecache.kit.versioned.transfer import read_replica_pointer
from forecache.serve.store.integrity import verify_filter, verify_segment
from forecache.serve.store.layout import StoreLayout, remove_tree
from forecache.serve.store.live.layer import list_stores_with_layers
from forecache.serve.store.live.reader import wait_until_applied
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.remote import (
    fetch_version,
    follow_pointer,
    has_manifest,
    open_remote,
    pull_layer,
    push_layer,
    read_remote_manifest,
    read_remote_pointer,
    remote_pipelines,
)
from forecache.serve.store.remote_store import WAIT_S, RemoteStore, list_local_stores, open_store
from forecache.serve.store.store import (
    Store,
    has_local_files,
    list_half_removed,
    remove_leftovers,
    remove_local_store,
    retire_versions,
)

logger = logging.getLogger("forecache")
_PATIENCE_S = 10.0  # for the remote to say what it serves


def push_stream_only_stores(settings: Settings, remote: Folder) -> list[str]:
    """Push the live layers of stores without published versions; returns their names.

    Where all machines share the lake, one that is in the remote stays: its stream's engine pushes each change.
    """
    stores = [open_store(settings, name) for name in list_stores_with_layers(settings.store_path)]
    alone = [store for store in stores if store.pointer().current is None]
    for store in alone:
        push_layer(store.layout, remote, replaces=not settings.lake_is_remote)
    return [store.pipeline for store in alone]


def pull_layers(settings: Settings, remote: Folder, names: Collection[str] = ()) -> list[str]:
    """Pull the live layers of stores (default: all), before the versions of any; returns which have no version."""
    alone = []
    for name in sorted(remote.folders()):
        if not NAME.fullmatch(name) or (names and name not in names) or remote.size(f"{name}/LIVE") is None:
            continue
        store, has_version = open_store(settings, name), remote.size(f"{name}/CURRENT") is not None
        reported_later = (ConflictError, DamagedError) if has_version else ()  # by the pull of its version
        with suppress(*reported_later), lock_versions(store.layout, action="pull"):
            if has_version and store.pointer().serving is None:
                store.layout.version_mark.touch()  # first; `remove_leftovers` deletes it once the version is here
            pull_layer(store.layout, remote)
        if not has_version:
            alone.append(name)
    return alone


def fetch_manifests(remote: Folder, root: str, theirs: Pointer) -> list[Manifest]:
    """The manifest of the version that a remote serves, and of its current one if another one is pinned there."""
    assert theirs.serving is not None
    found = []
    for number in dict.fromkeys((theirs.serving, theirs.serving if theirs.current is None else theirs.current)):
        try:
            manifest = read_remote_manifest(remote, root, number)
        except NotFoundError:
            if number == theirs.serving:
                raise
            continue
        if manifest.store != theirs.store:
            raise NotFoundError(f"The remote's {root} is about to be replaced.", remedy="Pull again.")
        found.append(manifest)
    return found


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


_PULL_TRIES = 3


def push(store: Store, remote: Folder, *, keep: int | None = None, progress: Progress = no_progress) -> dict[str, Any]:
    """Update a remote to what was done here while it could not be reached, or before there was one.

    Files that the remote lost of the served and the current version are copied again. `keep` is how many versions the
    remote retains besides the current and the pinned one; None: all. Returns `{"version", "files", "bytes"}`: the
    version that the remote serves, and what was copied. Raises ConflictError if the remote has other versions than
    this machine, and NotFoundError if nothing is published; the remote is unchanged.
    """
    shared = RemoteStore(store.layout.root, lambda **_: remote)
    with shared.hold("push", needs_remote=True, progress=progress):
        if shared.pointer().serving is None:
            raise NotFoundError(f"Nothing is published for {store.pipeline}.", remedy="Publish first.")
        return shared.sync(keep=keep, repairs=True)


def pull(
    store: Store,
    remote: Folder,
    *,
    keep: int = 2,
    verify: bool = False,
    wait_s: float | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Update a replica to the version that a remote serves: fetch missing files, check them, warm them, flip.

    An interrupted pull resumes where it stopped. A version that the replica has pinned stays served. If the remote's
    store is another one than the replica's, as after a publisher's store was lost and published anew, its versions
    replace the replica's. With `verify`, local files are read too, and damaged ones fetched again. `wait_s` is how long
    to wait for a process of this machine that changes the store; None: not at all. Returns `{"version", "files",
    "bytes", "moved"}`: the version that the replica serves, what was copied, and whether the served one has changed.

    Raises:
        NotFoundError: The remote serves nothing for this pipeline.
        CheckError: A file does not have the manifest's checksum; what is served is untouched.
        ConflictError: Another pull or publish is changing this store, or a version of another store is pinned here.
    """
    for _ in range(_PULL_TRIES - 1):
        try:
            return _pull(store, remote, keep, verify, wait_s, progress)
        except NotFoundError:
            if remote.read(f"{store.pipeline}/CURRENT") is None:
                raise
    # The publisher retired the version during each pull.
    return _pull(store, remote, keep, verify, wait_s, progress)


def _pull(
    store: Store, remote: Folder, keep: int, verify: bool, wait_s: float | None, progress: Progress
) -> dict[str, Any]:
    root, layout = store.pipeline, store.layout
    _read_remote_pointer(remote, root)  # before a folder is made for what the remote does not have
    with lock_versions(layout, action="pull", wait_s=wait_s):
        theirs = _read_remote_pointer(remote, root)  # under the lock, so that a publish of this machine is not set back
        pull_layer(layout, remote)
        pointer = read_replica_pointer(layout, verify=verify)
        manifests = fetch_manifests(remote, root, theirs)
        served = manifests[0]
        is_here = all(has_manifest(layout, each) and layout.has_files(each.version) for each in manifests)
        same = (pointer.store, pointer.current) == (theirs.store, theirs.current) and pointer.descends_from(theirs)
        if same and is_here and not verify:
            _clean_and_retire(store, keep)  # after a pull that was killed once it had moved the pointer
            return {"version": served.version, "files": 0, "bytes": 0, "moved": False}
        after = follow_pointer(root, pointer, theirs)
        files = travelled = 0
        for manifest in manifests:
            if verify:
                discard_damaged(layout, manifest)
            fetched = fetch_version(layout, remote, manifest, progress, is_served=True)
            files, travelled = files + fetched[0], travelled + fetched[1]
        if not same:
            _pull_left_contract(store, pointer, served, remote)
            # As in a publish; if this version is an older one, the tailer first restores rows that it had removed.
            wait_until_applied(layout, served.cut)
            write_pointer(layout, after)
        _clean_and_retire(store, keep)
    is_served = is_here and (pointer.store, pointer.serving) == (after.store, after.serving)
    return {"version": served.version, "files": files, "bytes": travelled, "moved": not (same or is_served)}


def _pull_left_contract(store: Store, pointer: Pointer, served: Manifest, remote: Folder) -> None:
    """Pull the contract that a view is about to leave here, if the remote keeps it: look-ups lack it at no time."""
    with suppress(DamagedError, NotFoundError):
        contract = "" if pointer.serving is None else store.manifest(pointer.serving).contract
        name = kept_name(store.pipeline, contract)
        if contract not in ("", served.contract) and remote.size(f"{name}/CURRENT") is not None:
            pull(Store(store.layout.root.with_name(name)), remote)


def list_published_names(settings: Settings) -> list[str]:
    """Every store with a version: those of the remote if one is set, which all machines see, else those here."""
    if settings.store_remote:
        return remote_pipelines(open_remote(settings.store_remote, settings.storage_options))
    return [store.pipeline for store in list_local_stores(settings) if store.pointer().current is not None]


def has_store(settings: Settings, name: str) -> bool:
    """Return whether the remote or this machine has anything of a store, also what a killed removal left."""
    if has_local_files(open_store(settings, name)):
        return True
    if not settings.store_remote:
        return False
    return bool(open_remote(settings.store_remote, settings.storage_options, patience_s=_PATIENCE_S).names(name))


def remove_store(settings: Settings, name: str) -> None:
    """Remove a store from Redis and the remote, if they are set, and from this machine.

    The remote's pointer goes before its files: no replica pulls a part of it. Raises `UnreachableError` if the remote
    does not answer, `UnavailableError` if Redis does not.
    """
    if settings.redis_url and settings.base is None:
        load_hook("redis", "open_store")(settings, name).remove()
    if settings.store_remote:
        remote = open_remote(settings.store_remote, settings.storage_options)
        remote.delete([f"{name}/CURRENT"])
        remote.delete(remote.names(name))
        if isinstance(remote, LocalFolder):
            remove_tree(remote.root / name)
    remove_local_store(open_store(settings, name))


def remove_retired_contracts(settings: Settings, remote: Folder) -> list[str]:
    """Remove the kept contracts of views that the remote no longer has from this machine; returns their names."""
    there, removed = set(remote_pipelines(remote)), []
    for name in list_half_removed(settings.store_path):
        remove_local_store(open_store(settings, name))
    for store in list_local_stores(settings):
        kept = split_kept_name(store.pipeline)
        if kept is not None and kept[0] in there and store.pipeline not in there:
            remove_local_store(store)
            removed.append(store.pipeline)
    return removed


def _read_remote_pointer(remote: Folder, name: str) -> Pointer:
    pointer = read_remote_pointer(remote, name)
    if pointer is None:
        raise NotFoundError(f"The remote serves nothing for {name}.", remedy="Publish and push first.")
    return pointer


def _clean_and_retire(store: Store, keep: int) -> None:
    remove_leftovers(store)
    retire_versions(store, keep=keep)


def sync_targets(
    settings: Settings, pipeline: Served | None, store: Store, progress: Progress = no_progress
) -> dict[str, Any]:
    """Update the remote and Redis to the version served here, after a publish, rollback or pin; returns results by
    name.

    Idempotent. Each target serves its old version until the new one is complete and verified there. The caller holds
    the store. A pipeline that is not declared any more (None) is not updated in Redis.
    """
    done: dict[str, Any] = {}
    if isinstance(store, RemoteStore):
        done["remote"] = store.sync(keep=None if pipeline is None else pipeline.publishing.keep, progress=progress)
        push_stream_only_stores(settings, open_remote(settings.store_remote, settings.storage_options))
    in_redis = pipeline is not None and pipeline.publish is not None and pipeline.publish.backend == "redis"
    if pipeline is not None and in_redis and settings.base is None:  # a trial publishes to its own folder alone
        store.fetch(store.pointer().serving, progress=progress)
        done["redis"] = load_hook("redis", "open_store")(settings, pipeline.name).load(store, progress=progress)
    return done


def sync_served(
    settings: Settings, pipeline: Served | None, store: Store, progress: Progress = no_progress
) -> dict[str, Any]:
    """`sync_targets` while the store is held, so that it overwrites no newer publish; {} if nothing is served."""
    with store.hold("sync", needs_remote=True, progress=progress):
        return {} if store.pointer().serving is None else sync_targets(settings, pipeline, store, progress)


def open_fetched_store(
    settings: Settings, name: str, version: int | None = None, *, progress: Progress = no_progress
) -> Store:
    """The store of a pipeline for reading, after what the remote serves and this machine has not came here.

    With `version`, its files come, too, if the remote retains it. If the remote cannot be reached, the store is what
    this machine has of it; an error of its client if that is nothing.
    """
    store = open_store(settings, name)
    if not isinstance(store, RemoteStore):
        return store
    try:
        remote = open_remote(settings.store_remote, settings.storage_options, patience_s=_PATIENCE_S)
        theirs, here = read_remote_pointer(remote, name), store.pointer()
        if theirs is not None and not (here.serving is not None and here.descends_from(theirs)):
            whole = open_remote(settings.store_remote, settings.storage_options)
            pull(store, whole, wait_s=WAIT_S, progress=progress)
    except DamagedError:
        raise
    except (ForecacheError, OSError) as error:
        if store.pointer().serving is None:
            raise
        logger.warning("The remote of %s could not be read; what is here is used: %s", name, error)
    if version is not None and not store.layout.has_files(version):
        with suppress(NotFoundError), store.look():
            store.fetch(version, progress=progress)
    return store
