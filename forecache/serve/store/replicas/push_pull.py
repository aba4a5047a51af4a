"""Distribution: a publisher pushes versions to a remote, replicas on other machines pull them.

Segments never change and their names are unique, so only missing ones are copied; a version with small changes is one
small segment. A manifest is created and never replaced. The pointer moves last on both sides. A remote has the pointer
of the installation that pushed last; another one may move it only if it has pulled that state.
"""

from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from forecache.base.errors import ConflictError, DamagedError, NotFoundError
from forecache.base.files import write_durably
from forecache.base.folders import Folder
from forecache.base.results import Progress, no_progress
from forecache.base.steps import push_step
from forecache.kit.versioned.pointer import write_pointer
from forecache.kit.versioned.transfer import read_content, read_replica_pointer, swap_file
from forecache.serve.store.live.reader import wait_until_applied
from forecache.serve.store.locks import publisher_lock, targets_lock
from forecache.serve.store.manifest import Manifest, manifest_from_json
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.read.snapshot import Snapshot
from forecache.serve.store.replicas.live_layer import pull_layer, push_layer
from forecache.serve.store.replicas.remote_files import manifest_name, pull_quarantine, push_quarantine
from forecache.serve.store.replicas.remote_retention import remove_retired, remove_unfinished
from forecache.serve.store.replicas.remote_state import moved_by_another_error, require_descendant
from forecache.serve.store.replicas.transfer import (
    discard_damaged,
    fetch_manifests,
    fetch_segments,
    has_version,
    upload_versions,
)
from forecache.serve.store.retention import remove_leftovers, retire_versions
from forecache.serve.store.store import Store

_PULL_TRIES = 3


def push(store: Store, remote: Folder, *, keep: int | None = None, progress: Progress = no_progress) -> dict[str, Any]:
    """Update a remote to the served version: missing files, then the manifest, then the pointer.

    Another push of this store, as by a publish, waits meanwhile; the version is kept until the push ends.

    Args:
        keep: How many versions the remote retains besides the current and the pinned one; None: all.

    Returns:
        `{"version", "files", "bytes"}`: the version that the remote serves, and the files and bytes copied.

    Raises:
        ConflictError: Another installation pushed a state that this one has not pulled; the remote is unchanged.
        NotFoundError: Nothing is published.
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
    uploaded, done = upload_versions(store.layout, manifests, remote, progress)
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

    Raises:
        ConflictError: Another installation used the number for another content.
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
    replace the replica's.

    Args:
        verify: Also read local files, and fetch damaged ones again.

    Returns:
        `{"version", "files", "bytes", "moved"}`: the version that the replica serves, the files and bytes copied, and
        whether the served version has changed.

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
    with publisher_lock(layout, action="pull"):
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
    """The next pointer of a replica: the remote's, with a version that is pinned only here.

    Raises:
        ConflictError: The pinned version is of another store.
    """
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
