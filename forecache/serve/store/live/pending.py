"""Pending rows: answers that are visible before their commit.

An engine puts the rows of a batch, commits the batch to the stream's table, and confirms it with the table's version.
A confirmed row stays until the live layer has applied that version, so that no key goes back to an older row.

A process that is killed leaves uncommitted rows. They stay visible, so that no key goes back: the next process computes
their events again, and holds back its rows of the same keys until it has passed the Kafka offsets that the killed one
had reached. Then all of them replace the old rows in one transaction.

The file is not flushed to the disk. A crash of the machine loses it, but its rows are computed again.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import orjson

from forecache.base.errors import UnavailableError
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live import counters as cells_of
from forecache.serve.store.live.counters import CONFIRMED_AT, CONFIRMED_FROM, CONFIRMED_UNTIL
from forecache.serve.store.live.environment import (
    LIVE,
    MAP_BYTES,
    PENDING_ROWS,
    EnvironmentWriter,
    acquire,
    release,
    writer_lock,
)
from forecache.serve.store.live.layer import LiveRow, record_of, times_of

Offsets = Mapping[int, int]
"""Next offset to read by partition."""


@dataclass(frozen=True)
class PendingBatch:
    batch: int  # the number that the engine gave it
    until: int  # number of its last put
    offsets: dict[int, int]  # after its events
    version: int | None  # of the table that contains it; None before its commit


def parse_offsets(stored: Mapping[str, int]) -> dict[int, int]:
    """Offsets as JSON has them, whose keys are texts."""
    return {int(partition): offset for partition, offset in stored.items()}


def merge_offsets(before: Offsets, after: Offsets) -> dict[int, int]:
    return {partition: max(before.get(partition, 0), after.get(partition, 0)) for partition in {**before, **after}}


def has_passed(wanted: Offsets, reached: Offsets) -> bool:
    return all(reached.get(partition, 0) >= offset for partition, offset in wanted.items())


def write_confirmed(cells: memoryview, batches: Iterable[PendingBatch], start: int) -> None:
    """Write to the cells which rows are committed: readers skip those once the live layer has applied them.

    So a row is skipped even if no process removes it any more. Rows whose number is not above `start` are excluded: a
    killed process left them.
    """
    known = [each for each in batches if each.version is not None and each.until > start]
    # A reader reads CONFIRMED_UNTIL first, and must never skip a row that is not confirmed.
    if start > cells[CONFIRMED_FROM]:
        cells[CONFIRMED_UNTIL] = 0
    if known:
        cells[CONFIRMED_AT] = max(each.version or 0 for each in known)
    cells[CONFIRMED_FROM] = start
    if known:
        cells[CONFIRMED_UNTIL] = max(each.until for each in known)


_SWEPT_AT_ONCE = 256
_STATE = b"state"
_Numbered = tuple[int, LiveRow]
"""A row and the number of its put."""


class PendingWriter(EnvironmentWriter):
    """Writes the pending rows of one store; one at a time, see `open_pending_writer`.

    After an error the file holds what it held before, and the writer has to be opened again.
    """

    entries: int

    def __init__(self, layout: StoreLayout, committed: Offsets, version: int, *, map_bytes: int = MAP_BYTES) -> None:
        self.layout = layout
        self._is_broken = False
        with ExitStack() as opening:
            opening.enter_context(writer_lock(layout, PENDING_ROWS))
            self._cells = cells_of.create_cells(layout.streamed_folder / f"{PENDING_ROWS}.state")
            path = layout.streamed_folder / f"{PENDING_ROWS}.mdb"
            if not cells_of.is_of_this_boot(self._cells):
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}-lock").unlink(missing_ok=True)
                self._cells[cells_of.CONFIRMED_UNTIL] = self._cells[cells_of.CONFIRMED_FROM] = 0
            self._env = acquire(path, is_durable=False, create=True, map_bytes=map_bytes)
            opening.callback(release, self._env)
            self._live_state = layout.streamed_folder / f"{LIVE}.state"
            self._live: memoryview | None = None
            self._recover(dict(committed), version)
            if not self.remove_applied():
                self._write()
            self._cells[cells_of.BOOT] = cells_of.boot_id()
            self._held = opening.pop_all()

    def _recover(self, committed: dict[int, int], version: int) -> None:
        """Take over the rows of the last process: those whose batch was committed, and those to be replaced."""
        stored, records = self._env.read(
            lambda transaction: (
                transaction.get(_STATE, db=self._env.meta),
                [(key, times_of(record)[0]) for key, record in transaction.cursor().iternext()],
            )
        )
        left: dict[str, Any] = {"number": 0, "batches": [], "waits_for": {}, "left": []}
        left.update({} if stored is None else orjson.loads(stored))
        self._number: int = left["number"]
        self._started = self._number
        waits_for = parse_offsets(left["waits_for"])
        ranges = [tuple(each) for each in left["left"]]
        confirmed, before = [], 0
        for each in left["batches"]:
            batch = replace(PendingBatch(**each), offsets=parse_offsets(each["offsets"]))
            if batch.version is None and has_passed(batch.offsets, committed):
                batch = replace(batch, version=version)
            if batch.version is None:
                ranges.append((before, batch.until))
                waits_for = merge_offsets(waits_for, batch.offsets)
            else:
                confirmed.append(batch)
            before = batch.until
        if has_passed(waits_for, committed):
            if ranges:
                confirmed.append(PendingBatch(-1, self._number, waits_for, version))
            waits_for, ranges = {}, []
        self.waits_for, self._left = waits_for, ranges
        self._batches, self._opened_at = deque(confirmed), version
        self._seen = dict(committed)
        self._numbers = dict(records)
        self._old = {key for key, number in records if any(after < number <= until for after, until in ranges)}
        self._kept_back: dict[bytes, _Numbered] = {}
        by_number: dict[int, list[bytes]] = {}
        for key, number in records:
            if key not in self._old:
                by_number.setdefault(number, []).append(key)
        self._order = deque(sorted(by_number.items()))

    def put(self, batch: int, rows: Iterable[tuple[bytes, LiveRow]], offsets: Offsets) -> None:
        """Make rows visible at once; raises UnavailableError if the disk is full, and then changes nothing.

        Args:
            batch: Number of the commit that will hold them; ascending. Several puts may belong to one commit.
            rows: Key bytes and rows, in the order of their events; their position does not matter.
            offsets: By partition, the offset after the events of these rows and of all before them.
        """
        self._number += 1
        rest: dict[int, int] = {}
        if self._batches and self._batches[-1].batch == batch and self._batches[-1].version is None:
            rest = self._batches.pop().offsets
        self._batches.append(PendingBatch(batch, self._number, merge_offsets(rest, offsets), None))
        self._seen = merge_offsets(self._seen, offsets)
        newest = {key: (self._number, row) for key, row in rows}
        if self.waits_for and has_passed(self.waits_for, self._seen):
            self._end_waiting(newest)
        else:
            self._kept_back.update((key, row) for key, row in newest.items() if key in self._old)
            self._show_rows({key: row for key, row in newest.items() if key not in self._old})
        self.remove_applied()

    def confirm(self, batch: int, version: int) -> None:
        """Record that the table contains this batch, and all before it, at this version."""
        self._batches = deque(
            replace(each, version=version) if each.batch <= batch and each.version is None else each
            for each in self._batches
        )
        self._write()
        self.remove_applied()

    def remove_applied(self) -> int:
        """Remove rows that the live layer has applied; returns their number. Call it about once a second.

        At most some hundred at a time, so that new rows need not wait; each `put` continues the work.
        """
        applied, gone, has_changed = self._applied_version(), set[bytes](), False
        while self._batches and (at := self._batches[0].version) is not None and at <= applied:
            until = self._batches[0].until
            while self._order and self._order[0][0] <= until and len(gone) < _SWEPT_AT_ONCE:
                gone.update(
                    key
                    for key in self._order.popleft()[1]
                    if key not in self._old and self._numbers.get(key, until + 1) <= until
                )
            if self._order and self._order[0][0] <= until:
                break
            self._batches.popleft()
            self._kept_back = {key: kept for key, kept in self._kept_back.items() if kept[0] > until}
            has_changed = True
        if gone or has_changed:
            self._write(gone=gone)
        return len(gone)

    def end_waiting_at(self, offsets: Offsets, version: int) -> None:
        """Record that the table has passed the offsets at a version without new rows: old rows end with it."""
        if self.waits_for and has_passed(self.waits_for, offsets):
            self._opened_at = version
            self._end_waiting({})

    def give_up_waiting(self) -> None:
        """Stop waiting for the events of a killed process, because they were removed from the topic."""
        if self.waits_for:
            self._end_waiting({})

    def _end_waiting(self, newest: Mapping[bytes, _Numbered]) -> None:
        """Show the rows held back, and `newest`. Other old rows stay until the layer has applied the first version.

        The events of those were already committed by an earlier run, so this one did not read them.
        """
        shown = {**self._kept_back, **newest}
        others = self._old - shown.keys()
        if others:
            until = max(self._numbers[key] for key in others)
            self._batches.appendleft(PendingBatch(-1, until, {}, self._opened_at))
            self._order.appendleft((until, list(others)))
        self._old, self._kept_back, self.waits_for, self._left = set(), {}, {}, []
        self._show_rows(shown)

    def _show_rows(self, shown: Mapping[bytes, _Numbered]) -> None:
        self._order.append((self._number, list(shown)))
        self._write(shown=shown)

    def _applied_version(self) -> int:
        if self._live is None:
            self._live = cells_of.read_cells(self._live_state)
        return -1 if self._live is None else int(self._live[cells_of.APPLIED])

    def _write(self, *, shown: Mapping[bytes, _Numbered] = {}, gone: Collection[bytes] = ()) -> None:
        """Commit new rows and removed keys, with the state from which a process continues after a kill."""
        if self._is_broken:
            raise UnavailableError("The pending rows could not be written before.", remedy="Open their writer again.")
        state = {
            "number": self._number,
            "batches": list(self._batches),
            "waits_for": self.waits_for,
            "left": self._left,
        }
        stored = orjson.dumps(state, option=orjson.OPT_NON_STR_KEYS)

        def work(transaction: Any) -> int:
            for key in gone:
                transaction.delete(key)
            for key, (number, row) in shown.items():
                # The number of its put takes the place of the position.
                transaction.put(key, record_of(row, number))
            transaction.put(_STATE, stored, db=self._env.meta)
            return int(transaction.stat(self._env.rows)["entries"])

        if shown:
            self._cells[cells_of.SOME] = 1
        self._is_broken = True
        self.entries = self._env.write(work)
        self._is_broken = False
        for key in gone:
            del self._numbers[key]
        self._numbers.update((key, number) for key, (number, _) in shown.items())
        cells = self._cells
        write_confirmed(cells, self._batches, self._started if self.waits_for else 0)
        cells[cells_of.ENTRIES] = self.entries
        cells[cells_of.COMMITS] += 1
        cells[cells_of.SOME] = int(self.entries > 0)


def open_pending_writer(
    layout: StoreLayout, *, committed: Offsets, version: int, map_bytes: int = MAP_BYTES
) -> PendingWriter:
    """Open the writer of a store's pending rows; their file is created if it is missing.

    `committed` are by partition the next offsets according to the stream's table at `version`. Raises ConflictError if
    another process writes them.
    """
    layout.streamed_folder.mkdir(parents=True, exist_ok=True)
    return PendingWriter(layout, committed, version, map_bytes=map_bytes)
