"""A pipeline's store: its versions, the served one, rollback and pin, and the removal of what nobody uses."""

import time
from contextlib import suppress
from pathlib import Path

from forecache.base.errors import ConflictError, DamagedError, NotFoundError, UnavailableError
from forecache.base.files import write_durably
from forecache.base.settings import Settings
from forecache.base.table_names import NAME
from forecache.kit.versioned.leases import remove_old_versions, take_lease
from forecache.kit.versioned.pointer import earlier_versions, lock_versions, read_pointer, write_pointer
from forecache.kit.versioned.verify import version_state
from forecache.serve.store.integrity import verify_version
from forecache.serve.store.layout import StoreLayout, remove_if_abandoned, remove_tree
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

    def quarantined_versions(self) -> dict[int, str]:
        """Quarantined versions with their reasons."""
        found = {}
        for number in self.version_numbers():
            with suppress(FileNotFoundError):  # not quarantined, or removed by a publish meanwhile
                found[number] = self.layout.quarantine(number).read_text().strip()
        return found

    def state(self, version: int) -> tuple[str, ...]:
        return version_state(self.layout, version)

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
        raise ConflictError(
            f"Version {wanted} of {self.pipeline} cannot be opened while it is being removed.", remedy="Try again."
        )

    def rollback(self, version: int | None = None) -> Manifest:
        """Serve an earlier version again and quarantine the one rolled back from.

        Args:
            version: The version to roll back to, None: the newest retained one before the current one that is not
                quarantined.

        Raises:
            NotFoundError: There is no such version.
            DamagedError: Its files are not those that were written; the pointer was not moved.
        """
        with lock_versions(self.layout, action="rollback"):
            manifest = self.rollback_target(version)
            current = self.pointer().current
            assert current is not None
            self.quarantine(current, f"rolled back to version {manifest.version} at {current_timestamp()}")
            self.serve_again(manifest.version)
            return manifest

    def quarantine(self, version: int, reason: str) -> None:
        """Keep a version from being served again automatically; the caller holds the publisher's lock."""
        write_durably(self.layout.quarantine(version), reason.encode())

    def lift_quarantine(self, version: int) -> None:
        """Undo `quarantine`; the caller holds the publisher's lock."""
        self.layout.quarantine(version).unlink(missing_ok=True)

    def serve_again(self, version: int, *, pinned: int | None = None) -> None:
        """Move the pointer to a retained version, with the pinned one that stays; the caller holds the store's lock."""
        pointer = self.pointer()
        write_pointer(self.layout, pointer.advance(current=version, pinned=pinned))

    def rollback_target(self, version: int | None = None) -> Manifest:
        """The version that `rollback` would serve, its files verified; raises as `rollback`."""
        try:
            return self.verify_files(self._rollback_target(self.pointer(), version))
        except DamagedError as error:
            raise DamagedError(
                error.message, remedy=f"Choose another with --to; `forecache versions {self.pipeline}` lists them."
            ) from None

    def verify_files(self, version: int) -> Manifest:
        """Read all files of a version, compare them with its manifest, and return that; raises as `manifest`."""
        manifest = self.manifest(version)
        verify_version(self.layout, manifest)
        return manifest

    def _rollback_target(self, pointer: Pointer, version: int | None) -> int:
        bad = self.quarantined_versions()
        candidates = [number for number in self.version_numbers() if number != pointer.current and number not in bad]
        if pointer.current is not None and version is None:
            earlier = next(earlier_versions(self.layout, pointer, than=pointer.current), None)
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
        with lock_versions(self.layout, action="pin"):
            manifest = self.verify_files(version)
            pointer = self.pointer()
            write_pointer(self.layout, pointer.advance(pinned=version))
            return manifest

    def unpin(self) -> Manifest | None:
        """Serve the current version again."""
        with lock_versions(self.layout, action="unpin"):
            pointer = self.pointer()
            write_pointer(self.layout, pointer.advance(pinned=None))
            return None if pointer.current is None else self.manifest(pointer.current)

    def unquarantine(self, version: int) -> None:
        with lock_versions(self.layout, action="unquarantine"):
            self.manifest(version)
            if self.layout.quarantine(version).exists():
                self.lift_quarantine(version)
                # A move, so that installations that have not seen it cannot push over it.
                write_pointer(self.layout, self.pointer().advance())


def manifest_of(layout: StoreLayout, version: int) -> Manifest:
    """Read the manifest in a version's file, maybe of another store; raises FileNotFoundError or DamagedError."""
    path = layout.manifest(version)
    return manifest_from_json(path.read_bytes(), what=f"The file {path}")


def open_store(settings: Settings, pipeline_name: str) -> Store:
    """The store of a pipeline; it may have no version yet."""
    return Store(settings.store_path / pipeline_name)


def list_local_stores(settings: Settings) -> list[Store]:
    """Every store on this machine, in alphabetical order."""
    folder = settings.store_path
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []  # glob hides errors
    return [open_store(settings, name) for name in sorted(filter(NAME.fullmatch, names))]


def remove_leftovers(store: Store) -> None:
    """Remove leftovers of killed publishes and pulls; the caller holds the store's lock."""
    layout = store.layout
    for path in layout.staging.iterdir():
        remove_tree(path)
    remove_foreign_versions(store)
    last = store.pointer().last
    for number in store.version_numbers():
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


def remove_foreign_versions(store: Store) -> None:
    """Remove the versions of another store that this one has replaced. Open snapshots of them stay usable."""
    for number in store.version_numbers():
        try:
            foreign = manifest_of(store.layout, number).store != store.pointer().store
        except UnavailableError:
            continue
        if foreign:
            store.layout.remove_version(number)


def remove_unreferenced(store: Store) -> None:
    """Remove segments and filters that no manifest names, and old leases; nothing while a manifest is damaged."""
    layout, manifests = store.layout, store.versions()
    if len(manifests) < len(store.version_numbers()):
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
    for path in [*layout.versions.glob("*.lease"), *layout.versions.glob("*.bad")]:
        if int(path.stem) not in numbers:
            path.unlink()
