"""The writer of a live layer: applies the versions of the stream's table one by one, each in one transaction.

The layer has the newest row of each key in the table up to the version `applied`. Rows with an offset at or below
`floor`, or with an event before `expire_before_us`, have been removed. The transaction that changes rows also writes
these numbers and the content hash, so that they describe the rows even after a kill.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from forecache.serve.store import content_hash
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live import counters as cells_of
from forecache.serve.store.live.environment import LIVE, MAP_BYTES, EnvironmentWriter, acquire, release, writer_lock
from forecache.serve.store.live.layer import LiveRow, record_of, times_of

NEVER = -(1 << 63)
"""An event time before all others: nothing expires."""
NEW: dict[str, Any] = {
    "applied": -1, "verified": -1, "floor": -1, "expire_before_us": NEVER, "pruned": True, "sum": "0", "newest": 0,
    "values": "",
}  # fmt: skip
"""Numbers of an empty layer; `sum` is hexadecimal, `values` is the `LiveLayer.values_id` of the rows."""


def live_content_sum(rows: Iterable[tuple[bytes, LiveRow]]) -> int:
    return content_hash.content_sum((key, record_of(row)) for key, row in rows)


_STATE = b"state"
_CHUNK = 20_000
_CHECK_READERS_S = 10.0
_T = TypeVar("_T")
_Record = tuple[bytes, bytes]


class LiveWriter(EnvironmentWriter):
    """Writes the live layer of one store; see `open_live_writer`."""

    applied: int  # the table's version up to which rows have been applied; -1: none
    verified_through: int  # the version at which the content was last found equal to the table's
    floor: int  # rows with offsets up to this one have been removed
    expire_before_us: int  # rows of events before this time have been removed
    content_sum: int  # sum modulo 2**128 of XXH3-128 over `key, 0x00, record` of all rows
    entries: int
    pruned: bool  # the last `prune` has removed all of its rows
    values: str  # `LiveLayer.values_id` of the declaration that computed them; "": not known

    def __init__(self, layout: StoreLayout, *, map_bytes: int = MAP_BYTES) -> None:
        self.layout = layout
        with ExitStack() as opening:
            opening.enter_context(writer_lock(layout, LIVE))
            path = layout.streamed_folder / f"{LIVE}.mdb"
            self._env = acquire(path, is_durable=True, create=True, map_bytes=map_bytes)
            opening.callback(release, self._env)
            self.get_many = self._env.get_many
            self._cells = cells_of.create_cells(layout.streamed_folder / f"{LIVE}.state")
            self._check_readers_at, self._from = 0.0, b""
            stored = self._env.read(lambda transaction: transaction.get(_STATE, db=self._env.meta))
            self._adopt_numbers(NEW if stored is None else json.loads(stored), self._env.count_rows())
            self._cells[cells_of.BOOT] = cells_of.boot_id()
            self._held = opening.pop_all()

    def apply(self, version: int, rows: Iterable[tuple[bytes, LiveRow]]) -> None:
        """Apply the rows of one version of the table, the last one of each key; does nothing if it was applied before.

        Raises UnavailableError if the disk is full; nothing was changed then.
        """
        if version <= self.applied:
            return
        newest = dict(rows)
        if newest:
            self._cells[cells_of.SOME] = 1

        def work(transaction: Any) -> dict[str, Any]:
            gone, come = [], []
            for key, row in newest.items():
                before = transaction.get(key)
                if before is not None:
                    gone.append((key, before))
                if self._is_removed(row.position, row.event_us):
                    if before is not None:
                        transaction.delete(key)
                    continue
                record = record_of(row)
                transaction.put(key, record)
                come.append((key, record))
            latest = max((row.event_us for row in newest.values()), default=0)
            return self._next_numbers(
                transaction, gone, come, applied=version, newest=max(self.newest_event_us, latest)
            )

        self._commit(work)

    def prune(self, floor: int, *, expire_before_us: int | None = None, most: int | None = None) -> int:
        """Remove rows up to an offset, and rows of events before a time, some thousand at once; returns their number.

        Args:
            floor: Smallest cut-off of the versions that are retained or open; -1: none. A lower one has no effect.
            expire_before_us: For layers whose rows no version contains; None: unchanged.
            most: Most rows that this call examines; None: all. The next call continues after them.
        """
        floor = max(floor, self.floor)
        expire = max(NEVER if expire_before_us is None else expire_before_us, self.expire_before_us)
        if (floor, expire) != (self.floor, self.expire_before_us):
            self._from = b""
            self._commit(
                lambda transaction: self._next_numbers(transaction, floor=floor, expire_before_us=expire, pruned=False)
            )
        removed, left = 0, most
        while not self.pruned and left != 0:
            size = _CHUNK if left is None else min(_CHUNK, left)
            removed += self._prune_some(size)
            left = None if left is None else left - size
        return removed

    def _prune_some(self, size: int) -> int:
        looked = self._env.read_range(self._from, size)
        doomed = [(key, record) for key, record in looked if self._is_removed(*times_of(record))]
        ends = len(looked) < size

        def work(transaction: Any) -> dict[str, Any]:
            for key, _ in doomed:
                transaction.delete(key)
            return self._next_numbers(transaction, gone=doomed, pruned=ends)

        if doomed or ends:
            self._commit(work)
        self._from = b"" if ends else looked[-1][0] + b"\0"
        return len(doomed)

    def mark_verified(self, version: int) -> None:
        self._commit(lambda transaction: self._next_numbers(transaction, verified=version))

    def publish_table_version(self, version: int) -> None:
        """Publish the version of the table, and the present time, to readers, which compute the lag from them."""
        self._cells[cells_of.TABLE_VERSION] = version
        self._cells[cells_of.LOOKED_AT_US] = time.time_ns() // 1000

    def reset(self, *, values: str = "") -> None:
        """Remove all rows; any version can be applied next. `values` as for `replace`."""

        def work(transaction: Any) -> dict[str, Any]:
            transaction.drop(self._env.rows, delete=False)
            return {**NEW, "entries": 0, "values": values}

        self._from = b""
        self._commit(work)

    def replace(
        self, version: int, rows: Iterable[tuple[bytes, LiveRow]], *, floor: int, expire_before_us: int = NEVER,
        values: str = "",
    ) -> None:  # fmt: skip
        """Replace all rows by these, of distinct keys, in one transaction, so that no answer goes back meanwhile.

        `floor` and `expire_before_us` are as for `prune`, but may be lower than before.
        """
        new = dict(rows)
        if new:
            self._cells[cells_of.SOME] = 1

        def work(transaction: Any) -> dict[str, Any]:
            gone = [key for key, _ in transaction.cursor().iternext() if key not in new]
            for key in gone:
                transaction.delete(key)
            for key, row in new.items():
                transaction.put(key, record_of(row))
            total, latest = live_content_sum(new.items()), max((row.event_us for row in new.values()), default=0)
            told = {"applied": version, "floor": floor, "expire_before_us": expire_before_us, "values": values}
            return {**NEW, **told, "sum": content_hash.to_hex(total), "newest": latest, "entries": len(new)}

        self._from = b""
        self._commit(work)

    def scan(self, visit: Callable[[dict[str, Any], Iterator[tuple[bytes, bytes]]], _T]) -> _T:
        """The result of `visit(numbers, keys and records)` on one state; another thread may apply meanwhile.

        The numbers are `applied`, `floor`, `expire_before_us`, `pruned` and, as hex, `sum`.
        """

        def work(transaction: Any) -> _T:
            stored = transaction.get(_STATE, db=self._env.meta)
            return visit(NEW if stored is None else json.loads(stored), transaction.cursor().iternext())

        return self._env.read_long(work)

    def items(self) -> list[tuple[bytes, bytes]]:
        return self._env.read_range(b"", None)

    def _is_removed(self, position: int, event_us: int) -> bool:
        return position <= self.floor or event_us < self.expire_before_us

    def _next_numbers(
        self, transaction: Any, gone: Sequence[_Record] = (), come: Sequence[_Record] = (), **changes: Any
    ) -> dict[str, Any]:
        total = content_hash.subtract(self.content_sum, content_hash.content_sum(gone))
        total = content_hash.add(total, content_hash.content_sum(come))
        entries = transaction.stat(self._env.rows)["entries"]
        return {**self._numbers, "sum": content_hash.to_hex(total), **changes, "entries": entries}

    def _commit(self, work: Any) -> None:
        def whole(transaction: Any) -> tuple[dict[str, Any], int]:
            numbers = work(transaction)
            entries = numbers.pop("entries")
            transaction.put(_STATE, json.dumps(numbers).encode(), db=self._env.meta)
            return numbers, entries

        self._adopt_numbers(*self._env.write(whole))
        now = time.monotonic()
        if now >= self._check_readers_at:
            self._check_readers_at = now + _CHECK_READERS_S
            self._env.forget_dead_readers()

    def _adopt_numbers(self, numbers: dict[str, Any], entries: int) -> None:
        """Adopt committed numbers, and publish them to readers."""
        self._numbers, self.entries = numbers, entries
        self.applied, self.verified_through = numbers["applied"], numbers["verified"]
        self.floor, self.expire_before_us = numbers["floor"], numbers["expire_before_us"]
        self.pruned, self.content_sum = numbers["pruned"], content_hash.from_hex(numbers["sum"])
        self.newest_event_us, self.values = numbers["newest"], numbers.get("values", "")
        cells = self._cells
        cells[cells_of.ENTRIES], cells[cells_of.APPLIED] = entries, self.applied
        cells[cells_of.VERIFIED], cells[cells_of.NEWEST_US] = self.verified_through, self.newest_event_us
        cells[cells_of.FLOOR] = self.floor
        cells[cells_of.COMMITS] += 1
        cells[cells_of.SOME] = int(entries > 0)


def open_live_writer(layout: StoreLayout, *, map_bytes: int = MAP_BYTES) -> LiveWriter:
    """Open the writer of a store's live layer, which is created if it is missing; raises ConflictError if it has
    another.
    """
    layout.streamed_folder.mkdir(parents=True, exist_ok=True)
    return LiveWriter(layout, map_bytes=map_bytes)
