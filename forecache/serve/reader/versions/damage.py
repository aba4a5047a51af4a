"""Damaged versions: found when they are opened or by scrubbing served ones, and replaced by the last good one."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from forecache.base.errors import ConflictError, DamagedError, NotFoundError
from forecache.kit.versioned.pointer import earlier_versions
from forecache.kit.versioned.verify import MissingFileError, ReadPace, verify_file
from forecache.serve.store import Pointer, Snapshot, Store
from forecache.serve.store.integrity import version_files

logger = logging.getLogger("forecache.reader")
SCRUB_BYTES_PER_S = 50e6
"""Reading at this pace takes about 1 % of a core."""
_REST = 10
"""After a requested scrub, wait this many times its duration before the next."""


class DamagedVersions:
    """The versions that are known to be damaged. A version is removed from it once its files are replaced."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, int], tuple[object, str]] = {}

    def record(self, store: Store, identity: tuple[str, int], reason: str) -> None:
        """Record and log that a version (`Manifest.identity`) is damaged."""
        key = (store.pipeline, *identity)
        if key not in self._known:
            logger.error("Version %d of %s is damaged and not served: %s", identity[1], store.pipeline, reason)
        self._known[key] = (_version_signature(store, identity[1]), reason)

    def reason_of(self, store: Store, identity: tuple[str, int]) -> str:
        """The reason why a version is damaged; "" if it is not known to be, or if its files were replaced since."""
        key = (store.pipeline, *identity)
        known = self._known.get(key)
        if known is None:
            return ""
        signature, reason = known
        if signature == _version_signature(store, identity[1]):
            return reason
        self._known.pop(key, None)
        return ""


def _version_signature(store: Store, version: int) -> object:
    """A value that changes when a file of a version is replaced."""
    paths = [store.layout.manifest(version)]
    with suppress(DamagedError, NotFoundError):  # the manifest itself may be what is damaged
        paths += [path for path, _, _ in version_files(store.layout, store.manifest(version))]
    return [_file_signature(path) for path in paths]


def _file_signature(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def open_newest_undamaged(store: Store, pointer: Pointer, served: Snapshot | None, damage: DamagedVersions) -> Snapshot:
    """Open the version that the pointer names, verified; if it is damaged, the newest undamaged one before it.

    Quarantined versions are skipped. `served` is the open version of this store, or of one that it has replaced; if it
    is the choice, it is returned as it is, unless its files were replaced. Raises DamagedError if all versions are
    damaged.
    """
    why = ""
    for number in _candidates(store, pointer):
        identity = (pointer.store, number)
        known = damage.reason_of(store, identity)
        why = why or known
        if known:
            continue
        if served is not None and served.manifest.identity == identity and not served.is_replaced():
            return served
        try:
            return open_verified(store, number)
        except DamagedError as error:
            damage.record(store, identity, error.message)
            why = why or error.message
        except NotFoundError as error:
            if number == pointer.serving:
                if store.pointer() != pointer:  # it was retired meanwhile
                    raise
                damage.record(store, identity, error.message)
                why = why or error.message
        except ConflictError:
            if number == pointer.serving:
                raise
    if (
        served is not None
        and served.manifest.store != pointer.store
        and not damage.reason_of(store, served.manifest.identity)
    ):
        return served
    raise DamagedError(f"Every version of {store.pipeline} that could be served is damaged: {why}")


def _candidates(store: Store, pointer: Pointer) -> Iterator[int]:
    # The first is nearly always the choice: the disk is read for the others only if it is not.
    assert pointer.serving is not None
    yield pointer.serving
    yield from earlier_versions(store.layout, pointer, than=pointer.serving)


def open_verified(store: Store, version: int) -> Snapshot:
    """Open a version and read all of it; raises DamagedError if a file differs from what was written."""
    snapshot = store.snapshot(version)
    try:
        snapshot.warm()
    except BaseException:
        snapshot.close()
        raise
    return snapshot


def verify_open_versions(
    served: Iterable[tuple[Store, Snapshot]], found: Callable[[Store, Snapshot, str], None]
) -> None:
    """Read each version that was opened unverified; `found` is called with each damaged one, as by `Scrubber`."""
    for store, snapshot in served:
        try:
            snapshot.warm()
        except DamagedError as error:
            found(store, snapshot, error.message)
        except ConflictError:
            continue  # its files are being replaced: the next poll opens it again


class Scrubber:
    """A slow thread that reads the served versions again, to find bytes that decay while the reader runs.

    It calls `found` with the store, the snapshot and the reason of each damaged one. `every_s` is from the end of one
    scrub to the start of the next; 0: only on request.
    """

    def __init__(
        self,
        served: Callable[[], list[tuple[Store, Snapshot]]],
        found: Callable[[Store, Snapshot, str], None],
        *,
        every_s: float,
    ) -> None:
        self._served = served
        self._found = found
        self._every_s = every_s or None
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forecache-scrub", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def scrub_now(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self._closed.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            asked = self._wake.wait(self._every_s)
            if self._closed.is_set():
                return
            started = time.monotonic()
            try:
                self._scrub_once(None if asked else ReadPace(SCRUB_BYTES_PER_S))
            except Exception:
                logger.exception("A scrub of the served versions failed; the next one will follow.")
            if asked:
                self._closed.wait(_REST * (time.monotonic() - started))
                self._wake.clear()

    def _scrub_once(self, pace: ReadPace | None) -> None:
        for store, snapshot in self._served():
            try:
                for path, _, info in version_files(store.layout, snapshot.manifest):
                    if self._closed.is_set():
                        return
                    # A removed file is still mapped, but cannot be read by its path any more.
                    with suppress(MissingFileError):
                        verify_file(path, info, pace=pace)
            except DamagedError as error:
                self._found(store, snapshot, error.message)
