"""Versions that are read from the remote, by blocks of segments, until a pull has brought them to this machine.

A thread of its own opens what the remote serves of the pipelines without a version here. Handlers of requests never
wait, so a read of an entry that was not fetched for its request raises EntriesMissingError; once `fetch` has fetched
the entry in another thread, the request is handled again. While the remote does not answer, nothing is asked of it but
by the thread.
"""

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from forecache.base.errors import DamagedError, ForecacheError, UnavailableError, UnreachableError
from forecache.base.folders import Folder
from forecache.base.settings import Settings
from forecache.base.table_names import NAME
from forecache.kit.http import problems
from forecache.kit.http.problems import Problem
from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.wakes import REMOTE_VERSIONS
from forecache.serve.store import Manifest, Snapshot, Store, open_remote, open_store
from forecache.serve.store.layout import REALTIME
from forecache.serve.store.live.reader import wait_until_applied
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.read.snapshot import values_of
from forecache.serve.store.remote import list_remote_models, read_remote_manifest, read_remote_pointer

LONGEST_S = 5.0
"""A request waits so long for the remote in all."""
_TOO_LONG = f"It has taken longer than {LONGEST_S:g} s."
_PATIENCE_S = 2.0  # for an answer of the remote to one request
_LOOK_EVERY = 5  # periods of the thread between two looks for newer versions
_LOOKS_AT_ONCE = 8
_FETCHES_AT_ONCE = 16
_MOST_FETCHES = 512  # that wait or are done


class EntriesMissingError(UnavailableError):
    """Entries of a partial version were not fetched for the request that reads them."""

    def __init__(self, version: "PartialVersion", keys: Sequence[bytes]) -> None:
        super().__init__("Entries of a version are in the remote, and not on this machine yet.", remedy="Try again.")
        self.version, self.keys = version, keys


class PartialVersion:
    """An open version that is read from the remote, as of `Version`; only what is in `fetched` can be read."""

    mapped_bytes = 0

    def __init__(self, snapshot: Snapshot) -> None:
        self.manifest = snapshot.manifest
        self.snapshot: Snapshot | None = snapshot  # None once closed
        self.fetched: Mapping[bytes, bytes | None] = {}

    def get_entry(self, key: bytes) -> bytes | None:
        return self.get_entries((key,))[0]

    def get_entries(self, keys: Sequence[bytes]) -> list[bytes | None]:
        fetched = self.fetched
        if missing := [key for key in keys if key not in fetched]:
            raise EntriesMissingError(self, missing)
        return [fetched[key] for key in keys]

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return values_of(self.get_entries(list(keys)), self.manifest)

    def warm(self) -> int:
        return 0

    def close(self) -> None:
        """Give up the snapshot, which is closed once no thread reads it any more."""
        self.snapshot = None


class PartialVersions:
    """The versions that the remote serves of pipelines without a version here; once it has none such, the thread ends.

    Attributes:
        opened: By pipeline, the newest version that was opened.
        failures: By pipeline, why what the remote serves cannot be opened.
        awaited_models: Real-time models that the remote had at the start, if the reader waits for all.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._uri = settings, settings.store_remote
        self.opened: dict[str, PartialVersion] = {}
        self.failures: dict[str, Exception] = {}
        self.awaited_models: frozenset[str] = frozenset()
        self._names: set[str] | None = None if self._uri else set()  # that the remote serves; None: not listed yet
        self._here: frozenset[str] = frozenset()
        self._without_layer: set[str] = set()
        self._remote: Folder | None = None
        self._problem, self._turn = "", 0  # why the remote does not answer; "" if it does
        self._thread = PeriodicThread(REMOTE_VERSIONS, self._look_if_due, at_once=True, close_s=0.0)
        self._threads = ThreadPoolExecutor(_FETCHES_AT_ONCE, "forecache-fetch")
        self._places = threading.BoundedSemaphore(_MOST_FETCHES)

    def start(self) -> None:
        if self._uri:
            self._thread.start()

    def close(self) -> None:
        """End all threads, which wait no longer for the remote than for an answer to one request."""
        self._thread.close()
        self._problem = self._problem or "The reader stops."
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.opened.clear()

    def note_served(self, names: Iterable[str]) -> None:
        """Note which pipelines are served otherwise, and need nothing of the remote any more."""
        self._here = frozenset(names)
        for name in self._here & self.opened.keys():
            self.opened.pop(name)
        if self._names and not self.may_have_any:
            self._thread.stopping.set()

    @property
    def may_have_any(self) -> bool:
        return self._names is None or bool(self._names - self._here)

    def may_have(self, name: str) -> bool:
        """Return whether the remote serves a pipeline that is not served here, as far as is known."""
        return name not in self._here and (self._names is None or name in self._names)

    def is_newer(self, name: str, here: Pointer) -> bool:
        """Return whether the remote serves another version of a store than the one that a pull has brought just now."""
        opened = self.opened.get(name)
        if opened is None or self._problem or here.pinned is not None:
            return False
        return opened.manifest.identity != (here.store, here.serving)

    def is_awaited(self, store: Store) -> bool:
        """Return whether the remote has, or may have, a version of a store, without which its layer must not answer.

        While the remote does not answer, what a pull noted when it brought the layer decides.
        """
        if self._names is None and self._problem:
            return store.layout.version_mark.exists()
        return self.may_have(store.pipeline)

    def find_reason(self, name: str = "") -> str:
        """The reason, as a sentence, why a pipeline, or any, of the remote is not served yet; "" if none is missing."""
        if not (self.may_have(name) if name else self.may_have_any):
            return ""
        if self._problem:
            return f"The remote of the published versions does not answer: {self._problem}"
        if name in self._without_layer:
            return f"{name} is served once `forecache store pull` has brought its live layer here."
        return f"The reader is opening the published versions in {self._uri}."

    @property
    def is_settled(self) -> bool:
        """True once each pipeline of the remote is served, or cannot be.

        A machine that has versions does not wait for a remote that does not answer, nor, if it may not pull everything,
        for a live layer.
        """
        if self._problem and (self._here or any((self._settings.store_path / REALTIME).glob("*/CURRENT"))):
            return True
        without = self._without_layer if self._here and not self._settings.reader_waits_for_all else ()
        others = (*self.opened, *self.failures, *without)
        return self._names is not None and self._names <= self._here.union(others)

    async def fetch(self, missing: EntriesMissingError, longest_s: float) -> dict[bytes, bytes | None]:
        """Fetch entries, {} of a version that was closed; raises a `Problem` if it takes too long, or DamagedError."""
        snapshot = missing.version.snapshot
        if longest_s <= 0:
            raise self._unanswered_problem(_TOO_LONG)
        if snapshot is None:
            return {}
        if self._problem:
            raise self._unanswered_problem(self._problem)
        if not self._places.acquire(blocking=False):
            raise self._unanswered_problem(f"{_MOST_FETCHES} other requests wait for it.")
        work = self._threads.submit(self._read, snapshot, missing.keys)
        work.add_done_callback(lambda _: self._places.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), longest_s)
        except asyncio.TimeoutError:
            raise self._unanswered_problem(_TOO_LONG) from None
        except DamagedError:
            raise
        except UnavailableError as error:
            raise self._unanswered_problem(error.message) from None

    def _read(self, snapshot: Snapshot, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        if self._problem:  # since it was submitted
            raise UnavailableError(self._problem)
        try:
            return dict(zip(keys, snapshot.get_entries(keys), strict=True))
        except UnavailableError as error:
            if not isinstance(error, DamagedError):
                self._problem = error.message
            raise

    def _unanswered_problem(self, why: str) -> Problem:
        detail = f"What was asked for is in the remote {self._uri}, and cannot be fetched now. {why}"
        return Problem(problems.UNREADABLE, detail, headers=[("retry-after", "1")])

    def _look_if_due(self) -> None:
        self._turn += 1
        is_missing = self._names is None or bool(self._without_layer or self.failures)
        if is_missing or self._problem or self._turn % _LOOK_EVERY == 0:
            self._look()

    def _look(self) -> None:
        """Open what the remote serves and is not served here; raises what the remote's client raises."""
        try:
            if self._remote is None:
                self._remote = open_remote(self._uri, self._settings.storage_options, patience_s=_PATIENCE_S)
            remote, found = self._remote, self._names
            if found is None and self._settings.reader_waits_for_all:
                self.awaited_models = frozenset(list_remote_models(remote))
            if not found or self._turn % _LOOK_EVERY == 0:
                found = {name for name in remote.folders() if NAME.fullmatch(name)}
            with ThreadPoolExecutor(_LOOKS_AT_ONCE) as threads:
                looks = {name: threads.submit(self._open_if_newer, remote, name) for name in found - self._here}
            self._names = (found & self._here) | {name for name, look in looks.items() if look.result()}
        except (ForecacheError, OSError) as error:
            self._problem = error.message if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}."
            raise
        self._problem = ""

    def _open_if_newer(self, remote: Folder, name: str) -> bool:
        """Open the version that the remote serves of a pipeline, if it is not open; False if the remote serves none."""
        try:
            store = open_store(self._settings, name)
            live, known = store.layout.live, self.opened.get(name)
            if known is None and store.pointer().serving is not None:
                self._without_layer.discard(name)
                self.failures.pop(name, None)
                return False
            has_layer = None if live.exists() else self._threads.submit(remote.size, f"{name}/{live.name}")
            pointer = read_remote_pointer(remote, name)
            if pointer is None or pointer.serving is None:
                for known_names in (self.opened, self.failures):
                    known_names.pop(name, None)
                self._without_layer.discard(name)
                return False
            if known is None or known.manifest.identity != (pointer.store, pointer.serving):
                manifest = read_remote_manifest(remote, name, pointer.serving)
                # Without its live layer, which a pull brings first, older rows would answer than with it.
                if has_layer is not None and has_layer.result() is not None:
                    self._without_layer.add(name)
                    return True
                self._open(remote, name, manifest)
            self.failures.pop(name, None)
        except UnreachableError:
            raise
        except Exception as error:  # noqa: BLE001  # others are served; the catalog logs it
            self.failures[name] = error
        self._without_layer.discard(name)
        return True

    def _open(self, remote: Folder, name: str, manifest: Manifest) -> None:
        layout = open_store(self._settings, name).layout
        layout.create()
        snapshot = Snapshot(layout, manifest, remote=remote)
        try:
            snapshot.warm()  # what a pull has brought of it
        except BaseException:
            snapshot.close()
            raise
        wait_until_applied(layout, manifest.cut)
        if name not in self._here:
            self.opened[name] = PartialVersion(snapshot)
