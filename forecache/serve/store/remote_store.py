"""A store whose truth is in a remote: whoever changes it holds its lease there and starts from what is there.

A change is made in the remote first, by one compare-and-swap of its pointer, and then here. A machine's disk is a
cache: it may be empty, or be of an earlier state.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from forecache.base.errors import (
    CheckError,
    DamagedError,
    ForecacheError,
    NotEverywhereError,
    NotFoundError,
    UnavailableError,
    UnreachableError,
)
from forecache.base.folders import Folder
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, publish_step, push_step
from forecache.base.table_names import NAME
from forecache.kit.lease import Lease, hold_lease, local_lease
from forecache.kit.versioned.pointer import lock_versions, read_pointer, write_pointer
from forecache.kit.versioned.transfer import read_replica_pointer, upload_missing
from forecache.serve.store import remote as files
from forecache.serve.store.integrity import check_sizes, version_files
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.read.snapshot import Snapshot
from forecache.serve.store.store import Store, manifest_of

WAIT_S = 600.0  # for another process that changes the store
_PATIENCE_S = 10.0  # for the remote to answer a request about the store's state


@dataclass
class _HeldState:
    """The state of a store that this process may change."""

    remote: Folder
    lease: Lease
    seen: tuple[bytes, Any] | None  # content and tag of the remote's pointer
    pointer: Pointer
    progress: Progress
    needs_remote: bool
    num_files: int = 0  # pushed
    num_bytes: int = 0


class RemoteStore(Store):
    """A store with a remote. While it is not held, it is what this machine has of it."""

    def __init__(self, folder: Path, open_remote: Callable[..., Folder]) -> None:
        super().__init__(folder)
        self._open_remote = open_remote
        self._held: _HeldState | None = None
        self._problem: UnavailableError | None = None

    def pointer(self) -> Pointer:
        return super().pointer() if self._held is None else self._held.pointer

    def version_numbers(self) -> list[int]:
        """Retained versions, ascending; while the store is held, those of the remote."""
        if self._held is None or self._held.seen is None:
            return super().version_numbers()
        pointer = self._held.pointer
        known = {*pointer.retained_versions, pointer.current, pointer.pinned}
        return [number for number in super().version_numbers() if number in known]

    @contextmanager
    def hold(
        self,
        action: str,
        *,
        needs_remote: bool = False,
        replaces_remote: bool = False,
        progress: Progress = no_progress,
    ) -> Iterator[None]:
        def report(holder: str) -> None:
            progress(f"Waiting for {holder}, which changes the store of {self.pipeline}", None)

        begin_work(f"{action} of {self.pipeline}")
        with ExitStack() as stack:
            stack.enter_context(lock_versions(self.layout, action=action, wait_s=WAIT_S, report=report))
            stack.callback(self._forget)
            try:
                state = self._open_remote(patience_s=_PATIENCE_S)
                name, what = f"store/{self.pipeline}", f"{action} of {self.pipeline}"
                lease = stack.enter_context(hold_lease(state, name, action=what, wait_s=WAIT_S, report=report))
                self._start(state, lease, replaces_remote=replaces_remote, needs_remote=needs_remote, progress=progress)
            except (UnreachableError, OSError) as error:
                self._fail(error, needs_remote=needs_remote)
            yield

    def confirm(self) -> None:
        if self._held is not None:
            self._held.lease.confirm()

    @contextmanager
    def look(self) -> Iterator[None]:
        with lock_versions(self.layout, action="look", wait_s=WAIT_S), ExitStack() as stack:
            stack.callback(self._forget)
            try:
                state = self._open_remote(patience_s=_PATIENCE_S)
                self._start(state, local_lease("look", "look"), needs_remote=True)
            except (UnreachableError, OSError) as error:
                self._fail(error, needs_remote=True)
            yield

    def _forget(self) -> None:
        self._held = self._problem = None

    def _fail(self, error: Exception, *, needs_remote: bool) -> None:
        """Go on without the remote, unless the change needs it; then raise UnavailableError."""
        cause = error.message if isinstance(error, UnreachableError) else f"{type(error).__name__}: {error}"
        self._held, self._problem = None, UnavailableError(
            f"The remote of {self.pipeline} cannot be reached: {cause}",
            remedy="What is served is unchanged. Make sure that FORECACHE_STORE_REMOTE answers, then run again.",
        )  # fmt: skip
        if needs_remote or super().pointer().current is None:  # a machine that has served nothing has nothing to move
            raise self._problem from error

    def _start(
        self,
        state: Folder,
        lease: Lease,
        *,
        replaces_remote: bool = False,
        needs_remote: bool,
        progress: Progress = no_progress,
    ) -> None:
        """Start from the remote's state, with the manifests of all its versions here."""
        name, layout = self.pipeline, self.layout
        seen = state.read(f"{name}/CURRENT")
        there: Pointer | None = None
        try:
            there = None if seen is None else Pointer.from_json(seen[0], what=f"The remote's {name}/CURRENT")
        except DamagedError:
            if not replaces_remote:
                raise
        if there is not None and not there.versions:  # an earlier Forecache wrote it, and listed none
            numbers = [number for number in files.list_remote_versions(state, name) if number <= there.last]
            there = replace(there, versions={str(number): 0.0 for number in numbers})
        here = read_pointer(layout) if there is None else read_replica_pointer(layout, verify=True)
        if there is not None:
            pointer = files.find_newest(name, here, there, replaces_remote=replaces_remote)
        else:  # a new remote has no version yet, whatever another one had
            pointer = replace(here, versions={}) if seen is None else here
        push_step("remote read")
        if there is not None and not replaces_remote:
            is_trusted = here.store == there.store and there.descends_from(here)
            for number in (*there.retained_versions, there.current, there.pinned):
                if number is not None and not (is_trusted and self._is_known(number, there.store)):
                    self._take_manifest(state, number)
            if not layout.live.exists():
                files.pull_layer(layout, state)
        remote = self._open_remote()
        self._held = _HeldState(remote, lease, seen, pointer, progress, needs_remote)

    def _is_known(self, number: int, store: str) -> bool:
        try:
            return manifest_of(self.layout, number).store == store
        except (FileNotFoundError, UnavailableError):
            return False

    def _take_manifest(self, state: Folder, number: int) -> None:
        try:
            files.put_manifest(self.layout, files.read_remote_manifest(state, self.pipeline, number))
        except (DamagedError, NotFoundError):
            return  # a publish over a version without a manifest is a full one

    def fetch(self, *versions: int | None, progress: Progress = no_progress) -> None:
        for number in versions:
            if self._held is None or number is None or self.layout.has_files(number):
                continue
            self._fetch(files.fetch_version, self.manifest(number), progress, is_served=False)

    def fetch_hashes(self, manifest: Manifest) -> None:
        self._fetch(files.fetch_hashes, manifest)

    def fetch_segments(self, manifest: Manifest) -> None:
        try:
            self._fetch(files.fetch_segments, manifest, no_progress)
        except (CheckError, NotFoundError) as error:
            raise DamagedError(error.message, remedy="Publish a full version.") from None

    def _fetch(self, fetch: Callable[..., object], *arguments: Any, **more: Any) -> None:
        assert self._held is not None, "the caller holds the store"
        try:
            fetch(self.layout, self._held.remote, *arguments, **more)
        except (UnreachableError, OSError) as error:
            self._fail(error, needs_remote=True)

    def open_version(self, manifest: Manifest) -> Snapshot:
        return Snapshot(self.layout, manifest, remote=None if self._held is None else self._held.remote)

    @property
    def is_alone(self) -> bool:
        return self._problem is not None

    def verify_files(self, version: int) -> Manifest:
        try:
            return super().verify_files(version)
        except (DamagedError, NotFoundError):
            if self._problem is not None:  # the remote may have what this machine lacks
                raise self._problem from None
            raise

    def next_version(self) -> int:
        assert self._held is not None, "a publish needs the remote"
        return max([self._held.pointer.last, *files.list_remote_versions(self._held.remote, self.pipeline)]) + 1

    def move(self, pointer: Pointer) -> None:
        if self._held is not None:
            pointer = self._push(pointer)
        self._follow(pointer)

    def add_current(self, manifest: Manifest, pointer: Pointer, *, keep: int) -> None:
        pointer = self._push(pointer, new=manifest, keep=keep)
        self._put_version(manifest)
        self._follow(pointer)
        publish_step("pointer moved")

    def sync(
        self, *, keep: int | None = None, repairs: bool = False, progress: Progress = no_progress
    ) -> dict[str, Any]:
        """Push a state that the remote does not have, and follow it here; returns `{"version", "files", "bytes"}`.

        The version is the one that the remote serves, and the others are what was pushed since the store is held. With
        `repairs`, files that the remote has lost are pushed again.
        """
        if self._problem is not None:
            raise self._problem
        if self._held is None:
            with self.hold("sync", needs_remote=True, progress=progress):
                return self.sync(keep=keep, repairs=repairs, progress=progress)
        held = self._held
        if repairs:
            files.push_layer(self.layout, held.remote)
        if held.seen is not None and held.seen[0] == held.pointer.to_json():
            if repairs:
                held.num_files, held.num_bytes = _add(held, self._upload(held, self._list_pushed(held.pointer)))
            self._follow(held.pointer)
        else:
            self._follow(self._push(held.pointer, keep=keep))
        return {"version": held.pointer.serving, "files": held.num_files, "bytes": held.num_bytes}

    def _list_pushed(self, pointer: Pointer, new: Manifest | None = None) -> list[Manifest]:
        """The versions besides a new one that the remote should have, and of which this machine has the files."""
        assert self._held is not None
        needed = {pointer.serving, pointer.current, *(super().version_numbers() if self._held.seen is None else ())}
        found = []
        for number in sorted(needed - {None, None if new is None else new.version}, key=str):
            assert number is not None
            is_there = number in pointer.retained_versions
            if is_there and not self.layout.has_files(number):
                continue
            try:
                manifest = self.manifest(number)
                check_sizes(self.layout, manifest)
            except (DamagedError, NotFoundError):
                if number == pointer.serving and not is_there:
                    raise
            else:
                found.append(manifest)
        return found

    def _upload(self, held: _HeldState, manifests: list[Manifest]) -> tuple[int, int]:
        name, what = self.pipeline, f"Pushing {self.pipeline} to the remote"
        files.remove_unfinished(held.remote, name)
        there, sizes = {}, held.remote.sizes(name)
        for manifest in manifests:
            for path, file, info in version_files(self.layout, manifest):
                if path.exists():
                    there[f"{name}/{file}"] = path, info
                elif sizes.get(f"{name}/{file}") != info.size_bytes:
                    raise DamagedError(
                        f"The remote has lost {name}/{file}, which version {manifest.version} needs.",
                        remedy=f"`forecache publish {name} --full` makes a version that does not need it.",
                    )
        uploaded, size = upload_missing(held.remote, there, sizes, lambda share: held.progress(what, share))
        push_step("uploaded")
        held.lease.check()
        for manifest in manifests:
            files.create_manifest(held.remote, manifest)
        push_step("manifest created")
        return len(uploaded), size

    def _push(self, pointer: Pointer, *, new: Manifest | None = None, keep: int | None = None) -> Pointer:
        """Make a move in the remote: files first, then manifests, then the pointer by compare-and-swap; returns it."""
        begin_work(f"pushing {self.pipeline}")
        held = self._held
        assert held is not None, "the caller holds the store"
        try:
            held.lease.check()
            manifests = [*([new] if new else ()), *self._list_pushed(pointer, new)]
            held.num_files, held.num_bytes = _add(held, self._upload(held, manifests))
            files.push_layer(self.layout, held.remote, replaces=False)
            pointer = files.retire(pointer, [manifest.version for manifest in manifests], keep=keep)
            self._swap(held, pointer)
            push_step("pointer moved")
        except (UnreachableError, OSError) as error:
            self._fail(error, needs_remote=held.needs_remote)
        if keep is not None and self._held is held:
            with suppress(ForecacheError, OSError):  # the next publish removes them
                held.lease.confirm()
                files.remove_unused(held.remote, self.pipeline, pointer)
        return pointer

    def _swap(self, held: _HeldState, pointer: Pointer) -> None:
        name, content = f"{self.pipeline}/CURRENT", pointer.to_json()
        held.lease.check()
        problem: Exception | None = None
        try:
            tag = held.remote.swap(name, content, held.seen[1] if held.seen else None)
        except (UnreachableError, OSError) as error:  # the answer may be lost: what is there now decides
            tag, problem = None, error
        found = (content, tag) if tag is not None else held.remote.read(name)
        if found is None or found[0] != content:
            if problem is not None:
                raise problem
            raise files.moved_by_another_error(self.pipeline)
        held.seen, held.pointer = found, pointer

    def _follow(self, pointer: Pointer) -> None:
        """Move the pointer here, with the files that it needs; not on a machine that has served nothing."""
        here = read_replica_pointer(self.layout, verify=True)
        needed = [number for number in (pointer.serving, pointer.current) if number is not None]
        if not all(self.layout.has_files(number) for number in needed):
            if self._problem is not None:
                raise self._problem
            if here.current is None:
                return
            try:
                self.fetch(*needed)
            except ForecacheError as error:
                raise NotEverywhereError(
                    f"The store of {self.pipeline} is changed in the remote, but not on this machine: {error.message}",
                    remedy=f"`forecache store pull {self.pipeline}` brings the change here.",
                ) from error
        after = replace(pointer, generation=max(here.generation + 1, pointer.generation))
        if replace(here, generation=0) != replace(after, generation=0):
            write_pointer(self.layout, after)


def open_store(settings: Settings, pipeline_name: str) -> Store:
    """The store of a pipeline; it may have no version yet."""
    folder = settings.store_path / pipeline_name
    if not settings.store_remote:
        return Store(folder)
    return RemoteStore(folder, partial(files.open_remote, settings.store_remote, settings.storage_options))


def list_local_stores(settings: Settings) -> list[Store]:
    """Every store on this machine, in alphabetical order."""
    folder = settings.store_path
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []  # glob hides errors
    return [open_store(settings, name) for name in sorted(filter(NAME.fullmatch, names))]


def list_served_manifests(settings: Settings, names: Iterable[str]) -> list[Manifest]:
    """The manifests that these stores serve: in the remote if one is set, which all machines see, else here."""
    if not settings.store_remote:
        return [found for name in names if (found := open_store(settings, name).current()) is not None]
    remote = files.open_remote(settings.store_remote, settings.storage_options, patience_s=_PATIENCE_S)
    served = list[Manifest]()
    for name in names:
        pointer = files.read_remote_pointer(remote, name)
        if pointer is not None and pointer.serving is not None:
            with suppress(NotFoundError):  # retired at this moment: the next call finds its successor
                served.append(files.read_remote_manifest(remote, name, pointer.serving))
    return served


def read_retained(settings: Settings) -> Iterator[Manifest]:
    """Manifests of all versions that stores retain, on this machine and in the remote; damaged ones are left out."""
    for store in list_local_stores(settings):
        yield from store.versions()
    if not settings.store_remote:
        return
    remote = files.open_remote(settings.store_remote, settings.storage_options, patience_s=_PATIENCE_S)
    for name in files.remote_pipelines(remote):
        pointer = files.read_remote_pointer(remote, name)
        named = () if pointer is None else {*pointer.retained_versions, pointer.current, pointer.pinned}
        for number in named:
            with suppress(DamagedError, NotFoundError):
                if number is not None:
                    yield files.read_remote_manifest(remote, name, number)


def _add(held: _HeldState, pushed: tuple[int, int]) -> tuple[int, int]:
    return held.num_files + pushed[0], held.num_bytes + pushed[1]
