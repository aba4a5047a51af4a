"""An LMDB environment of the live layer, and the lock of its one writer.

It is opened once in a process, grown when it is full, and read in short transactions: none outlives a call, so that no
reader keeps the writer from reusing freed pages. LMDB's table of readers has a slot for each reading process; the
writer clears those of processes that were killed.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from forecache.base.errors import ConflictError, DamagedError, UnavailableError
from forecache.base.files import lock
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live import counters as cells_of
from forecache.serve.store.segment.mapping import inode_of

MAP_BYTES = 1 << 32  # size of a new map. The file is as large as its content; the map grows with it
_MAX_READERS = 2048
_ROWS, _META = b"rows", b"meta"

_T = TypeVar("_T")


class Environment:
    """An open environment with the databases `rows` and `meta` (the writer's state); made by `acquire`."""

    def __init__(self, path: Path, *, is_durable: bool, create: bool, map_bytes: int) -> None:
        self.path = path
        self.references = 0
        # Opened for writing if that is allowed: LMDB refuses to open a file twice in one process, and the writer may be
        # in the same process as a reader.
        readonly = not create and not os.access(path, os.W_OK)
        # Without spare transactions: a forked process would free the slots of those that its parent keeps.
        try:
            self._env: Any = lmdb.open(
                str(path), subdir=False, create=create, readonly=readonly, map_size=map_bytes, max_dbs=2,
                max_readers=_MAX_READERS, readahead=False, sync=is_durable, metasync=False,
            )  # fmt: skip
            self.rows: Any = self._env.open_db(_ROWS, create=create)
            self.meta: Any = self._env.open_db(_META, create=create)
        except lmdb.Error as error:
            raise _unreadable_error(path, error) from None
        self.inode = inode_of(path)
        self._growing, self._maps = threading.Lock(), 0

    def get(self, key: bytes) -> bytes | None:
        maps = self._maps
        try:
            transaction = self._env.begin(db=self.rows)
            record: bytes | None = transaction.get(key)
            transaction.abort()
        except lmdb.Error as error:
            self._adopt_grown_map(error, maps)
            return self.read(lambda transaction: transaction.get(key))
        return record

    def read(self, work: Callable[[Any], _T]) -> _T:
        while True:
            maps = self._maps
            try:
                with self._env.begin(db=self.rows) as transaction:
                    return work(transaction)
            except lmdb.Error as error:
                self._adopt_grown_map(error, maps)

    def _adopt_grown_map(self, error: lmdb.Error, maps: int) -> None:
        """Return if the read may be tried again, as the map has grown since the counter was `maps`; else raise."""
        if isinstance(error, lmdb.MapResizedError):
            self._resize(0)  # to the size that another process has set
            return
        with self._growing:  # another thread's growth ends the transactions of all
            if self._maps == maps:
                raise _unreadable_error(self.path, error) from None

    def _resize(self, size: int) -> None:
        with self._growing:
            self._maps += 1
            try:
                self._env.set_mapsize(size)
            finally:
                self._maps += 1  # a read that has begun in between is tried again, too

    def read_long(self, work: Callable[[Any], _T]) -> _T:
        """As `read`, for work of seconds in a thread other than the writer's: the map cannot grow meanwhile.

        LMDB must not move a map in which this process has an open transaction.
        """
        with self._growing:
            try:
                with self._env.begin(db=self.rows) as transaction:
                    return work(transaction)
            except lmdb.Error as error:
                raise _unreadable_error(self.path, error) from None

    def write(self, work: Callable[[Any], _T]) -> _T:
        """Commit `work(transaction)` and return its result; if the map is full it grows, and `work` is called again.

        Raises UnavailableError if the disk is full, so that nothing has changed, and DamagedError.
        """
        try:
            while True:
                try:
                    with self._env.begin(db=self.rows, write=True) as transaction:
                        return work(transaction)
                except lmdb.MapResizedError:
                    self._resize(0)
                except lmdb.MapFullError:
                    self._resize(2 * int(self._env.info()["map_size"]))
        except (lmdb.DiskError, OSError) as error:
            raise _no_space_error(self.path, error) from None
        except lmdb.Error as error:
            if "File too large" in str(error) or "Input/output" in str(error):
                raise _no_space_error(self.path, error) from None
            raise _unreadable_error(self.path, error) from None

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of some keys, at one moment; None for those that have none."""
        return self.read(lambda transaction: list(map(transaction.get, keys)))

    def read_range(self, start: bytes, most: int | None) -> list[tuple[bytes, bytes]]:
        """The first `most` keys and records (None: all) from a key on, in the keys' order."""

        def work(transaction: Any) -> list[tuple[bytes, bytes]]:
            cursor = transaction.cursor()
            is_there = cursor.set_range(start) if start else cursor.first()
            return list(islice(cursor.iternext(), most)) if is_there else []

        return self.read(work)

    def count_rows(self) -> int:
        return self.read(lambda transaction: int(transaction.stat(self.rows)["entries"]))

    def forget_dead_readers(self) -> int:
        """Free the slots of readers that were killed; returns their number."""
        return int(self._env.reader_check())

    def is_replaced(self) -> bool:
        """Return whether the path leads to another file than the open one, or to none."""
        try:
            return inode_of(self.path) != self.inode
        except FileNotFoundError:
            return True

    def close(self) -> None:
        if self._env is not None:
            self._env.close()


_open: dict[tuple[int, int], Environment] = {}
_lock = threading.Lock()


def acquire(path: Path, *, is_durable: bool, create: bool = False, map_bytes: int = MAP_BYTES) -> Environment:
    """Open an environment, or count one more user of it in this process.

    Raises UnavailableError if it does not exist, or cannot be read. If `is_durable`, a commit survives a crash of the
    machine; it survives one of the process in any case.
    """
    with _lock:
        found = _open.get(inode_of(path)) if path.exists() else None
        if found is None:
            if not create and not path.exists():
                raise UnavailableError(f"The live layer {path} is not there yet.", remedy="Start its stream.")
            found = Environment(path, is_durable=is_durable, create=create, map_bytes=map_bytes)
            _open[found.inode] = found
        found.references += 1
        return found


def release(environment: Environment) -> None:
    with _lock:
        environment.references -= 1
        if environment.references == 0:
            _open.pop(environment.inode, None)
            environment.close()


def _forget_environments() -> None:
    """In a child process: drop the environments of the parent, so that they are opened again here."""
    global _lock
    _lock = threading.Lock()
    for environment in _open.values():
        # Drop LMDB's objects even if the environment is referenced: while they exist, the file cannot be opened again.
        environment._env = environment.rows = environment.meta = None
    _open.clear()


os.register_at_fork(after_in_child=_forget_environments)


def _unreadable_error(path: Path, error: Exception) -> DamagedError:
    return DamagedError(
        f"The live layer {path} cannot be used: {error}.",
        remedy="If its files are damaged, stop the stream, remove them and start it again: it fills them anew.",
    )


def _no_space_error(path: Path, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"The live layer {path} cannot be written: {error}.", remedy="Free space on its disk; nothing was changed."
    )


LIVE, PENDING_ROWS = "live", "pending"  # file names of the two environments, without suffix

_W = TypeVar("_W", bound="EnvironmentWriter")


class EnvironmentWriter:
    """Base class of the writers: holds the lock and the environment, which are in `_held`, until it is closed."""

    layout: StoreLayout
    _env: Environment
    _cells: memoryview
    _held: ExitStack

    @contextmanager
    def _open(self, layout: StoreLayout, kind: str, *, is_durable: bool, map_bytes: int) -> Iterator[None]:
        """Open the environment for a writer that is set up in the block; raises ConflictError if it has another."""
        self.layout = layout

        def locked_error(holder: str) -> ConflictError:
            return ConflictError(
                f"The {kind} rows of {layout.root.name} are being written by {holder}.",
                remedy="A live layer has one writer: stop the other one first.",
            )

        layout.streamed_folder.mkdir(parents=True, exist_ok=True)
        lock_file, cells, path = (layout.streamed_folder / f"{kind}.{suffix}" for suffix in ("lock", "state", "mdb"))
        with ExitStack() as opening:
            opening.enter_context(lock(lock_file, holder=f"process {os.getpid()}", refused=locked_error))
            if not is_durable:
                self._cells = cells_of.create_cells(cells)
                if not cells_of.is_of_this_boot(self._cells):
                    path.unlink(missing_ok=True)
                    path.with_name(f"{path.name}-lock").unlink(missing_ok=True)
                    self._cells[cells_of.CONFIRMED_UNTIL] = self._cells[cells_of.CONFIRMED_FROM] = 0
            self._env = acquire(path, is_durable=is_durable, create=True, map_bytes=map_bytes)
            opening.callback(release, self._env)
            if is_durable:  # last: readers open a durable environment once its counters exist
                self._cells = cells_of.create_cells(cells)
            yield
            self._cells[cells_of.BOOT] = cells_of.boot_id()
            self._held = opening.pop_all()

    def close(self) -> None:
        self._held.close()

    def __enter__(self: _W) -> _W:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
