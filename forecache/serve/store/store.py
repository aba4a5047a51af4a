"""A pipeline's store: its versions, the served one, rollback and pin, and the removal of what nobody uses."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from forecache.base.errors import ConflictError, DamagedError, NotFoundError, UnavailableError
from forecache.base.files import write_durably
from forecache.base.results import Progress, no_progress
from forecache.base.steps import begin_work, contract_step, publish_step
from forecache.kit.versioned.leases import remove_old_versions, take_lease
from forecache.kit.versioned.pointer import lock_versions, read_pointer, write_pointer
from forecache.kit.versioned.verify import version_state
from forecache.serve.store.integrity import verify_version
from forecache.serve.store.layout import StoreLayout, remove_if_abandoned, remove_tree
from forecache.serve.store.live.reader import wait_until_applied
from forecache.serve.store.manifest import Manifest, current_timestamp, manifest_from_json
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.read.snapshot import Snapshot

_OPEN_TRIES = 10
_OPEN_PAUSE_S = 0.005


class Store:
    """The versions of one pipeline in one folder. Cheap to create; reads the disk at each call."""

    def __init__(self, folder: Path) -> None:
        self.layout = StoreLayout(folder)

    @property
    def pipeline(self) -> str:
        return self.layout.root.name

    def pointer(self) -> Pointer:
        return read_pointer(self.layout)

    @contextmanager
    def hold(
        self,
        action: str,
        *,
        needs_remote: bool = False,
        replaces_remote: bool = False,
        progress: Progress = no_progress,
    ) -> Iterator[None]:
        """Keep other processes from changing the store during the block, and start from its newest state.

        Args:
            action: What this process does, for others to show.
            needs_remote: Refuse if the store's remote cannot be reached; else the change is made here alone.
            replaces_remote: Start from what is here, and not from what the remote has.

        Raises:
            ConflictError: Another process is changing the store.
            UnavailableError: The remote cannot be reached.
        """
        begin_work(f"{action} of {self.pipeline}")
        with lock_versions(self.layout, action=action):
            yield

    def confirm(self) -> None:
        """Make sure that this process still holds the store, before it changes what nothing can refuse.

        Raises LeaseLostError if another process may hold it.
        """

    @contextmanager
    def look(self) -> Iterator[None]:
        """See the newest state of the store during the block, also if it is only in a remote; it is not changed.

        Raises UnavailableError if the remote cannot be reached.
        """
        yield

    @property
    def is_alone(self) -> bool:
        """True if the remote could not be reached since the store is held: a change is then made here alone."""
        return False

    def move(self, pointer: Pointer) -> None:
        """Move the pointer, in the remote if there is one and then here; the caller holds the store."""
        write_pointer(self.layout, pointer)

    def add_current(self, manifest: Manifest, pointer: Pointer, *, keep: int) -> None:
        """Add a verified version whose files are here, and move the pointer to it; the caller holds the store.

        Args:
            keep: How many versions a remote retains besides the current and the pinned one.
        """
        self._put_version(manifest)
        write_pointer(self.layout, pointer)
        publish_step("pointer moved")

    def _put_version(self, manifest: Manifest) -> None:
        if all(self.layout.has_segment(segment.id) for segment in manifest.segments):
            self.layout.lease(manifest.version).touch()
        write_durably(self.layout.manifest(manifest.version), manifest.to_json())
        publish_step("manifest written")
        # Otherwise a worker that serves the new version would have newer rows than one that serves the old one.
        wait_until_applied(self.layout, manifest.cut)

    def next_version(self) -> int:
        """The number of the next version, which no version ever had; the caller holds the store."""
        return self.pointer().last + 1

    def fetch(self, *versions: int | None, progress: Progress = no_progress) -> None:
        """Fetch those files of versions from the remote that are not here; the caller holds the store."""

    def fetch_hashes(self, manifest: Manifest) -> None:
        """Fetch the filter of a version and the key hashes of its deltas, which a publish over it reads whole.

        The caller holds the store.
        """

    def fetch_segments(self, manifest: Manifest) -> None:
        """Fetch the segments of a version that are not here; the caller holds the store."""

    def open_version(self, manifest: Manifest) -> Snapshot:
        """Open a version that need not be published; a process that holds the store reads from the remote what is not
        here."""
        return Snapshot(self.layout, manifest)

    def current(self) -> Manifest | None:
        """The manifest of the served version (the pinned one if there is one), None before the first publish."""
        while True:
            serving = self.pointer().serving
            try:
                return None if serving is None else self.manifest(serving)
            except NotFoundError:
                if self.pointer().serving == serving:
                    raise
                # A publish that retains no older version has removed it meanwhile.

    def manifest(self, version: int) -> Manifest:
        """The manifest of one version.

        Raises:
            NotFoundError: The store does not have it (any more).
            DamagedError: Its bytes are not those that were written.
        """
        try:
            found = manifest_of(self.layout, version)
            if found.store == self.pointer().store:
                return found
            raise NotFoundError(
                f"Version {version} of {self.pipeline} is there, but of another store than the pointer's.",
                remedy="A pull that replaces the store was cut short: pull again, or publish.",
            )
        except FileNotFoundError:
            known = ", ".join(str(number) for number in self.version_numbers()) or "none"
            raise NotFoundError(
                f"The store of {self.pipeline} has no version {version}.", remedy=f"It has: {known}."
            ) from None

    def version_numbers(self) -> list[int]:
        """Retained versions, ascending."""
        return self.layout.numbers()

    def versions(self) -> list[Manifest]:
        """Manifests of the retained versions that can be read, ascending."""
        found = []
        for number in self.version_numbers():
            with suppress(DamagedError, NotFoundError):
                found.append(self.manifest(number))
        return found

    def blocked_versions(self) -> dict[int, str]:
        """Quarantined versions with their reasons."""
        bad = self.pointer().bad
        return {number: bad[str(number)] for number in self.version_numbers() if str(number) in bad}

    def state(self, version: int) -> tuple[str, ...]:
        return version_state(self.layout, version, self.pointer())

    def snapshot(self, version: int | None = None) -> Snapshot:
        """Open a version for reading, by default the served one.

        Raises:
            NotFoundError: Nothing is published yet, or the version does not exist.
            DamagedError: A file is not what was written.
        """
        for _ in range(_OPEN_TRIES):
            wanted = self.pointer().serving if version is None else version
            if wanted is None:
                raise NotFoundError(
                    f"Nothing is published for {self.pipeline}.", remedy=f"Run `forecache publish {self.pipeline}`."
                )
            lease = take_lease(self.layout, wanted)
            if lease is not None:
                return Snapshot(self.layout, self.manifest(wanted), lease=lease)
            if version is not None:
                self.manifest(wanted)
            time.sleep(_OPEN_PAUSE_S)
        assert wanted is not None
        self.manifest(wanted)  # raises if it does not exist any more
        if not self.layout.has_files(wanted):
            raise NotFoundError(
                f"The files of version {wanted} of {self.pipeline} are in the remote, and not on this machine.",
                remedy=f"`forecache store pull {self.pipeline}` brings the served version.",
            )
        raise ConflictError(
            f"Version {wanted} of {self.pipeline} cannot be opened while it is being removed.", remedy="Try again."
        )

    def rollback(self, version: int | None = None) -> Manifest:
        """Serve an earlier version again and block the one rolled back from.

        Args:
            version: The version to roll back to, None: the newest retained one before the current one that is not
                blocked.

        Raises:
            NotFoundError: There is no such version.
            DamagedError: Its files are not those that were written; the pointer was not moved.
        """
        with self.hold("rollback"):
            manifest = self.rollback_target(version)
            current = self.pointer().current
            assert current is not None
            reason = f"rolled back to version {manifest.version} at {current_timestamp()}"
            self.serve_again(manifest.version, bad={current: reason})
            return manifest

    def serve_again(self, version: int, *, bad: Mapping[int, str]) -> None:
        """Move the pointer to a retained version, without a pin, and block others in the same move, with reasons.

        The caller holds the store.
        """
        self.move(self.pointer().block(bad).advance(current=version, pinned=None))

    def rollback_target(self, version: int | None = None) -> Manifest:
        """The version that `rollback` would serve, its files verified; raises as `rollback`."""
        try:
            return self.verify_files(self._rollback_target(self.pointer(), version))
        except DamagedError as error:
            raise DamagedError(
                error.message,
                remedy=f"Choose another with --to; `forecache store versions {self.pipeline}` lists them.",
            ) from None

    def verify_files(self, version: int) -> Manifest:
        """Read all files of a version, compare them with its manifest, and return that; raises as `manifest`."""
        manifest = self.manifest(version)
        self.fetch(version)
        verify_version(self.layout, manifest)
        return manifest

    def _rollback_target(self, pointer: Pointer, version: int | None) -> int:
        bad = self.blocked_versions()
        candidates = [number for number in self.version_numbers() if number != pointer.current and number not in bad]
        if pointer.current is not None and version is None:
            earlier = next((each for each in reversed(candidates) if each < pointer.current), None)
            if earlier is not None:
                return earlier
        elif version in candidates:
            assert version is not None
            return version
        wanted = "an earlier version" if version is None else f"version {version}"
        here = "" if pointer.current is None else f" from {pointer.current}"
        listed = ", ".join(map(str, candidates)) or "none"
        raise NotFoundError(
            f"The store of {self.pipeline} cannot roll back{here} to {wanted}.",
            remedy=f"Versions it can go to: {listed}.",
        )

    def pin(self, version: int) -> Manifest:
        """Serve this version until it is unpinned, even if others are published meanwhile.

        Raises:
            NotFoundError: The store does not have it.
            DamagedError: Its files are not those that were written.
        """
        with self.hold("pin"):
            manifest = self.verify_files(version)
            self.move(self.pointer().advance(pinned=version))
            return manifest

    def unpin(self) -> Manifest | None:
        """Serve the current version again."""
        with self.hold("unpin"):
            pointer = self.pointer()
            self.move(pointer.advance(pinned=None))
            return None if pointer.current is None else self.manifest(pointer.current)

    def unblock(self, version: int) -> tuple[Manifest, bool]:
        """Unblock a version; return it, and whether it was blocked."""
        with self.hold("unblock"):
            manifest = self.manifest(version)
            was_blocked = version in self.blocked_versions()
            if was_blocked:
                self.move(self.pointer().unblock([version]).advance())
            return manifest, was_blocked


def manifest_of(layout: StoreLayout, version: int) -> Manifest:
    """Read the manifest in a version's file, maybe of another store; raises FileNotFoundError or DamagedError."""
    path = layout.manifest(version)
    return manifest_from_json(path.read_bytes(), what=f"The file {path}")


def remove_leftovers(store: Store) -> None:
    """Remove leftovers of killed publishes and pulls; the caller holds the store's lock."""
    layout = store.layout
    for path in layout.staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # a reader may be opening a version of the remote in it
        else:
            path.unlink(missing_ok=True)
    remove_foreign_versions(store)
    last = store.pointer().last
    for number in layout.numbers():
        if number > last:  # its manifest was written, but the pointer never moved
            layout.remove_version(number)
    for path in [*layout.root.glob(f".{layout.pointer.name}.*.tmp*"), *layout.versions.glob(".*.tmp*")]:
        path.unlink()
    for path in layout.root.glob(f".{layout.live.name}.*.tmp"):
        remove_if_abandoned(path)  # a starting stream writes LIVE without the store's lock
    remove_unreferenced(store)


def retire_versions(store: Store, *, keep: int) -> list[int]:
    """`remove_old_versions` of a store besides the current and the pinned one, with segments and filters."""
    pointer = store.pointer()
    removed = remove_old_versions(store.layout, keep=keep, needed=(pointer.current, pointer.pinned))
    if removed:
        remove_unreferenced(store)
    return removed


_REMOVED = ".removed-"


def has_local_files(store: Store) -> bool:
    """Return whether this machine has anything of a store, also what a killed removal left."""
    return store.layout.root.is_dir() or _hidden_folder(store).is_dir()


def list_half_removed(folder: Path) -> list[str]:
    """The names of the stores in a folder whose removal was killed."""
    return sorted(path.name.removeprefix(_REMOVED) for path in folder.glob(f"{_REMOVED}*"))


def remove_local_store(store: Store) -> None:
    """Remove a store on this machine as a whole; open snapshots stay usable.

    Its folder is renamed first, so that nobody finds a part of it; what a killed process left is removed, too.
    """
    begin_work(f"removing the store of {store.pipeline}")
    root, hidden = store.layout.root, _hidden_folder(store)
    shutil.rmtree(hidden, ignore_errors=True)  # another process may be removing it, too
    if root.is_dir():
        with lock_versions(store.layout, action="removal"):
            root.rename(hidden)
        contract_step("store hidden")
        shutil.rmtree(hidden, ignore_errors=True)


def _hidden_folder(store: Store) -> Path:
    return store.layout.root.with_name(f"{_REMOVED}{store.pipeline}")


def remove_foreign_versions(store: Store) -> None:
    """Remove the versions of another store that this one has replaced. Open snapshots of them stay usable."""
    for number in store.layout.numbers():
        try:
            foreign = manifest_of(store.layout, number).store != store.pointer().store
        except UnavailableError:
            continue
        if foreign:
            store.layout.remove_version(number)


def remove_unreferenced(store: Store) -> None:
    """Remove segments and filters that no manifest names, and old leases; nothing while a manifest is damaged."""
    layout = store.layout
    try:
        manifests = [manifest_of(layout, number) for number in layout.numbers()]
    except (UnavailableError, FileNotFoundError):
        return
    segments = {segment.id for manifest in manifests for segment in manifest.segments}
    filters = {manifest.filter.file for manifest in manifests if manifest.filter}
    numbers = {manifest.version for manifest in manifests}
    for path in layout.segments.iterdir():
        if path.name not in segments:
            remove_tree(path)
    for path in layout.filters.iterdir():
        if path.name not in filters:
            path.unlink()
    for path in layout.versions.glob("*.lease"):
        if int(path.stem) not in numbers:
            path.unlink()
