"""The reader of a live layer: streamed rows by key, in microseconds, or in no time if there are none."""

import os
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

from forecache.base.errors import DamagedError, UnavailableError
from forecache.base.files import is_locked
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live import counters as cells_of
from forecache.serve.store.live.environment import LIVE, PENDING_ROWS, Environment, acquire, release
from forecache.serve.store.live.layer import Found, LiveRow, found_of, found_of_pending, times_of

_SOME = cells_of.SOME


class _LiveCell:
    """A counter of the live layer; -1, or `least`, while that does not exist."""

    def __init__(self, cell: int, *, least: int = -1) -> None:
        self._cell, self._least = cell, least

    def __get__(self, reader: "LiveReader", kind: type) -> int:
        cells = reader._live.cells
        return max(self._least, int(cells[self._cell])) if cells[cells_of.MAGIC] else self._least


class LiveReader:
    """Reads pending rows and those of the live layer. Safe for threads; in a forked process it opens its own.

    The environments may be missing at first: `follow` opens those that were created since.
    """

    def __init__(self, layout: StoreLayout) -> None:
        self.layout = layout
        self._pending = _EnvironmentReader(layout.streamed_folder, PENDING_ROWS, is_durable=False)
        self._live = _EnvironmentReader(layout.streamed_folder, LIVE, is_durable=True)
        self.follow()

    def get(self, key: bytes) -> LiveRow | None:
        """The pending row of a key, else its row in the live layer, else None; raises DamagedError."""
        found = self.find(key)
        return None if found is None else LiveRow(*found)

    def get_many(self, keys: Sequence[bytes]) -> list[LiveRow | None]:
        """As `get` of each key, in their order, from one state of each environment."""
        return [None if found is None else LiveRow(*found) for found in self.find_many(keys)]

    def find(self, key: bytes) -> Found | None:
        """As `get`, but returns a tuple, which is faster."""
        # The pending row first: it is removed only after the live layer has the row that replaces it.
        if self._pending.cells[_SOME]:
            record = self._pending.get(key)
            if record is not None and not self._is_applied(record):
                return found_of_pending(record)
        if self._live.cells[_SOME]:
            record = self._live.get(key)
            if record is not None:
                return found_of(record)
        return None

    def find_many(self, keys: Sequence[bytes]) -> list[Found | None]:
        """As `get_many`, but returns tuples, which is faster."""
        rows: list[Found | None] = [None] * len(keys)
        if self._pending.cells[_SOME]:
            for place, record in enumerate(self._pending.get_many(keys)):
                if record is not None and not self._is_applied(record):
                    rows[place] = found_of_pending(record)
        if self._live.cells[_SOME]:
            for place, record in enumerate(self._live.get_many(keys)):
                if record is not None and rows[place] is None:
                    rows[place] = found_of(record)
        return rows

    @property
    def is_empty(self) -> bool:
        """True if there is certainly no row; does not read LMDB."""
        return not (self._pending.cells[_SOME] or self._live.cells[_SOME])

    @property
    def entries(self) -> int:
        """Number of rows in the live layer and of pending ones, as of the last commit."""
        return int(self._live.cells[cells_of.ENTRIES] + self._pending.cells[cells_of.ENTRIES])

    @property
    def num_pending(self) -> int:
        return int(self._pending.cells[cells_of.ENTRIES])

    applied_version = _LiveCell(cells_of.APPLIED)  # version of the stream's table that has been applied; -1: none
    verified_through = _LiveCell(cells_of.VERIFIED)  # at which it was last found equal to the table; -1: never
    floor = _LiveCell(cells_of.FLOOR)  # the offset up to which rows have been removed; -1: none
    table_version = _LiveCell(cells_of.TABLE_VERSION)  # the newest one that the tailer has read; -1: none
    newest_event_us = _LiveCell(cells_of.NEWEST_US, least=0)  # of an applied event; 0: none
    looked_at_us = _LiveCell(cells_of.LOOKED_AT_US, least=0)  # when the tailer last read `table_version`; Unix time

    @property
    def commits(self) -> int:
        """A number that changes with each change of any row."""
        return int(self._live.cells[cells_of.COMMITS] + self._pending.cells[cells_of.COMMITS])

    def count_above(self, cuts: Sequence[int]) -> list[int]:
        """Number of keys with a row above each of the cut-offs; reads all rows."""
        pending = {key for key, record in self._pending.items() if not self._is_applied(record)}
        positions = sorted(times_of(record)[0] for key, record in self._live.items() if key not in pending)
        return [len(pending) + len(positions) - bisect_right(positions, cut) for cut in cuts]

    def follow(self) -> None:
        """Open environments that were created or replaced since; call it now and then, not for each read."""
        self._pending.follow()
        self._live.follow()

    def close(self) -> None:
        self._pending.close()
        self._live.close()

    def __enter__(self) -> "LiveReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_applied(self, record: bytes) -> bool:
        """Return whether the live layer has applied the commit of a pending row, which is not removed yet."""
        number, cells = times_of(record)[0], self._pending.cells
        if number > cells[cells_of.CONFIRMED_UNTIL] or number <= cells[cells_of.CONFIRMED_FROM]:
            return False
        return bool(self._live.cells[cells_of.APPLIED] >= cells[cells_of.CONFIRMED_AT] and self._live.is_there)


class _EnvironmentReader:
    """Reads one environment; its counters `cells` are zeros while it does not exist."""

    def __init__(self, folder: Path, kind: str, *, is_durable: bool) -> None:
        self._path, self._state, self._is_durable = folder / f"{kind}.mdb", folder / f"{kind}.state", is_durable
        self.cells = cells_of.NO_CELLS
        self._mapped: tuple[memoryview, tuple[int, int]] | None = None
        self._env: Environment | None = None
        self._replaced: list[Environment] = []
        self.get: Callable[[bytes], bytes | None] = _read_nothing
        _sides.add(self)

    @property
    def is_there(self) -> bool:
        return self._env is not None

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        environment = self._env  # another thread may follow meanwhile
        return [None] * len(keys) if environment is None else environment.get_many(keys)

    def items(self) -> list[tuple[bytes, bytes]]:
        return [] if self._env is None else self._env.read_range(b"", None)

    def follow(self) -> None:
        if self._env is not None and self._env.is_replaced():
            # Another thread may be reading it.
            self._replaced.append(self._env)
            self._env = None
        if self._mapped is None or self._mapped[1] != _inode_of(self._state):
            cells, inode = cells_of.read_cells(self._state), _inode_of(self._state)
            self._mapped = None if cells is None or inode is None else (cells, inode)
        is_of_now = self._mapped is not None and cells_of.is_of_this_boot(self._mapped[0])
        if self._mapped is None or not (is_of_now or self._is_durable):
            # It does not exist, the machine has crashed, or the writer of pending rows is about to create the file.
            self.cells = cells_of.NO_CELLS
            return
        if self._env is None:
            self._env = self._open()
            self.get = _read_nothing if self._env is None else self._env.get
        if self._env is None:
            self.cells = cells_of.NO_CELLS
        else:  # after a crash of the machine, counters that were not flushed are lost
            self.cells = self._mapped[0] if is_of_now else cells_of.UNSURE

    def _open(self) -> Environment | None:
        try:
            return acquire(self._path, is_durable=self._is_durable)
        except DamagedError:
            raise
        except UnavailableError:
            return None

    def close(self) -> None:
        self.cells, self.get = cells_of.NO_CELLS, _read_nothing
        for environment in (*self._replaced, *([] if self._env is None else [self._env])):
            release(environment)
        self._env, self._replaced = None, []

    def reopen_in_child(self) -> None:
        """In a forked process: drop the parent's environment without closing it, and open another one."""
        self._replaced = []
        if self._env is not None:
            self._env = None
            self.follow()


def _read_nothing(key: bytes) -> bytes | None:
    return None


_sides: "weakref.WeakSet[_EnvironmentReader]" = weakref.WeakSet()


def _reopen() -> None:
    for side in list(_sides):
        side.reopen_in_child()


os.register_at_fork(after_in_child=_reopen)


def _inode_of(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_LONGEST_S = 15.0
_PAUSE_S = 0.02


def wait_until_applied(layout: StoreLayout, cut: int, *, longest_s: float = _LONGEST_S) -> bool:
    """Wait, before the pointer moves to a version, until the live layer has applied the version's cut-off; return
    whether.

    The workers of a reader swap in a new version one after the other. One that has it knows the stream up to the
    cut-off, so the live layer must be as far for the others, or a key would go back to an older row between two
    requests. The layer must also still have the rows that an older version lacks. If no tailer runs on this machine, or
    if it is too slow, a key may go back for a moment.
    """
    if cut < 0 or not layout.live.exists():
        return True
    give_up = time.monotonic() + longest_s
    with LiveReader(layout) as reader:
        while not (reader.applied_version >= cut >= reader.floor):
            if not has_writer(layout) or time.monotonic() > give_up:
                return False
            time.sleep(_PAUSE_S)
            reader.follow()
    return True


def has_writer(layout: StoreLayout) -> bool:
    return is_locked(layout.streamed_folder / f"{LIVE}.lock")
