"""Keeps one live layer up to date: applies commits, prunes, and rebuilds the layer if it differs from the table.

Its state is in the layer itself, changed in the same transactions as the rows. It may be killed at any time and resumes
after the last version that was applied.
"""

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from forecache.base.errors import ForecacheError
from forecache.base.steps import tail_step
from forecache.serve.store.encoding.streamed_rows import StreamTable
from forecache.serve.store.live.layer import LiveLayer, read_tail_state, write_tail_state
from forecache.serve.store.live.writer import NEVER, LiveWriter, open_live_writer
from forecache.serve.store.store import Store, manifest_of
from forecache.stream.tail.layer_builder import RowLayerBuilder, TileLayerBuilder
from forecache.stream.tail.layer_comparison import ComparisonResult
from forecache.stream.tail.table_log import TableLog


@dataclass(frozen=True)
class RetentionBounds:
    """The oldest position and as-of date that any retained version of a store needs: served, pinned or open."""

    floor: int  # no version needs a row at or below it; -1: there is no version, or one without a cut-off
    night: date | None  # None: there is no version


NOTHING = RetentionBounds(-1, None)


def find_retention_bounds(store: Store, layer: LiveLayer) -> RetentionBounds | None:
    """Return the bounds of a store's versions; None if one cannot be read, so that nothing may be removed.

    A version of another stream, or of none, includes no rows of this one.
    """
    try:
        pointer = store.pointer()
        if pointer.serving is None:
            return NOTHING
        # After the last one there may be a version that is being published, or whose publish died.
        numbers = [number for number in store.version_numbers() if number <= pointer.last]
        manifests = [manifest_of(store.layout, number) for number in numbers]
    except FileNotFoundError:
        return None  # retired meanwhile: the next call finds the others
    except ForecacheError:
        return None
    if not manifests:
        return NOTHING
    cuts = [manifest.cut if manifest.stream == layer.stream else -1 for manifest in manifests]
    return RetentionBounds(min(cuts), date.fromisoformat(min(manifest.as_of for manifest in manifests)))


def first_needed_day(layer: LiveLayer, kept: RetentionBounds | None, table: StreamTable) -> date | None:
    """Return the day before which no event is needed; None: all are needed."""
    if layer.kind == "tiles":
        return None if kept is None else kept.night  # one day more than whole days need, for windows in minutes
    if layer.keep_h is None:
        return None
    newest = min(table.newest_day() or date.max, datetime.now(timezone.utc).date())
    return newest - timedelta(hours=layer.keep_h) - timedelta(days=1)


def expire_before_us(layer: LiveLayer, kept: RetentionBounds | None, newest_event_us: int) -> int:
    """Return the event time before which rows are removed; it moves in steps, so that not every call scans all rows.

    `newest_event_us` is that of all applied rows; 0: nothing was applied.
    """
    if layer.kind == "tiles":
        night = None if kept is None else kept.night
        if night is None:
            return NEVER
        return int(datetime(night.year, night.month, night.day, tzinfo=timezone.utc).timestamp() * 1e6)
    if layer.keep_h is None or newest_event_us <= 0:
        return NEVER
    keep_us = int(layer.keep_h * 3_600_000_000)
    # An event time in the future, from a wrong clock, must not expire everything.
    newest = min(newest_event_us, time.time_ns() // 1000)
    step = max(keep_us // 100, 1)
    return (newest - keep_us) // step * step


logger = logging.getLogger("forecache.stream")
_FAR_BEHIND = 300
"""From so many missing commits on, their rows are read from the table at once and not commit by commit."""
_IDLE_S = 5.0
_LOOK_AT_VERSIONS_S = 2.0
_PRUNED_ROWS = 20_000
RISE_S = 10.0
"""Seconds until rows that no version needs any more are removed; by then every reader has switched to the version."""
_SAY_S = 1.0


class Follower:
    """Keeps one live layer equal to its stream's table."""

    def __init__(self, store: Store, layer: LiveLayer, log: TableLog) -> None:
        """Take the layer's lock; ConflictError if another process follows the table for this layer."""
        self.store, self.layer, self.log = store, layer, log
        is_rows = layer.kind == "rows"
        self.values = RowLayerBuilder(layer) if is_rows else TileLayerBuilder(layer, self._oldest_as_of)
        self.writer: LiveWriter = open_live_writer(store.layout)
        # When the last comparison began, by the monotonic clock; if it read all rows; rebuilds by this process.
        self.compared_at, self.compared_all, self.rebuilt = time.monotonic(), False, 0
        self._state = read_tail_state(store.layout)
        self._state.pid, self._state.comparing_since = os.getpid(), 0.0
        self.comparison_s, self.compared_every_s = self._state.comparison_s, self._state.compared_every_s
        self._look_at = self._kept_at = self._said_at = float("-inf")
        self._kept: RetentionBounds | None = None
        self._risen_at: float | None = None
        self._rebuild_why = ""

    def step(self) -> bool:
        """Apply the next commit, or prune if there is none; returns True if there may be more to do at once."""
        self._update_retention()
        if self.writer.values != self.layer.values_id:
            if self.writer.applied < 0:
                self.writer.reset(values=self.layer.values_id)
            else:
                self._rebuild_why = "its declaration has changed"
        if self._rebuild_why:
            self._rebuild(self._rebuild_why)
        if time.monotonic() >= self._look_at and self._catch_up():
            return True
        commit = self.log.read_commit(self.writer.applied + 1)
        if commit is None:
            self.writer.publish_table_version(self.writer.applied)
            self._state.caught_up_at = time.time()
            return self._prune()
        tail_step("commit read")
        if commit.removes:
            self._rebuild_why = f"version {commit.version} of the table takes rows away"
            return True
        rows = [] if commit.rows is None else self.values.rows_of_commit(commit.rows, self.writer)
        self.writer.apply(commit.version, rows)
        tail_step("applied")
        self._look_at = time.monotonic() + _IDLE_S
        return True

    def begin_comparison(self) -> None:
        self.compared_all = self._state.compares_all = self.values.needs_full_comparison(self.writer)
        self.compared_at, self._state.comparing_since = time.monotonic(), time.time()
        self._write_state(now=True)

    def end_comparison(self) -> None:
        """Record that a comparison has ended, with or without a result."""
        self._state.comparison_s, self._state.comparing_since = self.comparison_s, 0.0
        self._write_state(now=True)

    def handle_comparison(self, found: ComparisonResult, began_at: float) -> None:
        """Record the result of a comparison that began at a Unix time; rebuild the layer if it differs."""
        if not found.difference:
            if found.version > self.writer.verified_through:
                self.writer.mark_verified(found.version)
            tail_step("verified")
            self._state.verified_at = time.time()
            self._state.unverified_since = began_at  # later commits were not compared
            self._write_state(now=True)
            return
        self._state.differed += 1
        self._state.differed_at, self._state.difference = time.time(), found.difference
        logger.error("The live layer of %s differs from its table: %s.", self.store.pipeline, found.difference)
        self._write_state(now=True)
        self._rebuild(found.difference)

    def note_failure(self, error: Exception) -> None:
        """Record that `step` has failed; applied commits remain, and the next call tries again."""
        if not self._state.failing_since:
            self._state.failing_since = time.time()
        if self._state.failure != str(error):
            trace = None if isinstance(error, ForecacheError) else error
            logger.error("The live layer of %s is not brought forward: %s", self.store.pipeline, error, exc_info=trace)
        self._state.failure = str(error)
        self._write_state(now=True)

    def note_success(self) -> None:
        """Record that `step` has not failed."""
        if self._state.failing_since:
            self._state.failing_since, self._state.failure = 0.0, ""
        self._write_state()

    def close(self) -> None:
        with suppress(OSError):
            self._write_state(now=True)
        self.writer.close()

    def _catch_up(self) -> bool:
        """Look at the table's newest version; returns True if rows were read from the table instead of its log."""
        table = self.log.open_newest()
        self._look_at = time.monotonic() + _IDLE_S
        if table.version < 0:
            return False
        self.writer.publish_table_version(table.version)
        if table.id != self._state.table_id or table.version < self.writer.applied:
            self._check_table_identity(table)
        if table.version <= self.writer.applied:
            return False
        is_far = table.version - self.writer.applied > _FAR_BEHIND
        if not is_far and self.log.read_commit(self.writer.applied + 1) is not None:
            return False
        if not is_far:
            self._state.gaps += 1
            logger.warning(
                "Version %d of %s is gone from its log: its rows are read from the table.",
                self.writer.applied + 1, self.log.table,
            )  # fmt: skip
        if self._kept is not None:
            self.writer.prune(self._floor(), most=0)  # a new layer need not get rows that no version needs
        above = max(self.writer.applied, self.writer.floor)
        since, writer = first_needed_day(self.layer, self._kept, table), self.writer
        rows = self.values.rows_of_table(table, above=above, up_to=table.version, since=since, writer=writer)
        self.writer.apply(table.version, rows)
        tail_step("caught up")
        return True

    def _check_table_identity(self, table: StreamTable) -> None:
        """Rebuild the layer if the table is not the one that it was filled from; record the table's id."""
        is_another = bool(self._state.table_id) or table.version < self.writer.applied
        if is_another and self.writer.applied >= 0:
            logger.error("The table %s was made anew: its live layer is, too.", self.log.table)
            self._rebuild("the table was made anew", table)
        self._state.table_id = table.id
        self._write_state(now=True)

    def _rebuild(self, why: str, table: StreamTable | None = None) -> None:
        """Replace the layer's rows by those of the table, in one transaction, so that no answer becomes older.

        Until it is committed, nothing is applied, and answers are those of the old rows.
        """
        table = table or self.log.open_newest()
        floor = min(self.writer.floor if self._kept is None else self._floor(), table.version)
        expire = self._expire_before_us() if self.layer.kind == "tiles" else self.writer.expire_before_us
        logger.warning("The live layer of %s is made anew: %s.", self.store.pipeline, why)
        since = first_needed_day(self.layer, self._kept, table)
        rows = self.values.rows_of_table(table, above=floor, up_to=table.version, since=since)
        tail_step("rows read")
        kept = ((key, row) for key, row in rows if row.event_us >= expire)
        values = self.layer.values_id
        self.writer.replace(table.version, kept, floor=floor, expire_before_us=expire, values=values)
        tail_step("replaced")
        self.rebuilt += 1
        self._rebuild_why = ""
        self._state.table_id = table.id
        self._look_at = time.monotonic() + _IDLE_S

    def _update_retention(self) -> None:
        """Update the smallest cut-off of the versions; if it is below that of pruned rows, rebuild the layer."""
        if time.monotonic() < self._kept_at:
            return
        self._kept_at = time.monotonic() + _LOOK_AT_VERSIONS_S
        self._kept = self._delay_rise(find_retention_bounds(self.store, self.layer))
        if self._kept is None:
            return
        if self._floor() < self.writer.floor:
            self._rebuild_why = f"a version with the cut {self._kept.floor} has come, and rows above it were removed"
        if self.layer.kind == "tiles" and self._expire_before_us() < self.writer.expire_before_us:
            self._rebuild_why = f"a version of {self._oldest_as_of()} has come, and tiles of days after it were removed"

    def _delay_rise(self, found: RetentionBounds | None) -> RetentionBounds | None:
        """Apply a floor that has risen only after `RISE_S`.

        A reader of a store whose first version was just published may still answer from the layer alone.
        """
        if found is None or found.floor <= self.writer.floor or self.writer.applied < 0:
            self._risen_at = None
            return found
        if self._risen_at is None:
            self._risen_at = time.monotonic()
        return found if time.monotonic() >= self._risen_at + RISE_S else RetentionBounds(self.writer.floor, found.night)

    def _prune(self) -> bool:
        """Remove some of the rows that no version needs; returns True if there are more."""
        if self._kept is None:
            return False
        self.writer.prune(self._floor(), expire_before_us=self._expire_before_us(), most=_PRUNED_ROWS)
        tail_step("pruned")
        return not self.writer.pruned

    def _oldest_as_of(self) -> date | None:
        return None if self._kept is None else self._kept.night

    def _floor(self) -> int:
        """The largest position whose rows may be removed; -1 for tiles, which are pruned by days of their events."""
        return -1 if self._kept is None or self.layer.kind == "tiles" else self._kept.floor

    def _expire_before_us(self) -> int:
        return expire_before_us(self.layer, self._kept, self.writer.newest_event_us)

    def _write_state(self, *, now: bool = False) -> None:
        if not now and time.monotonic() < self._said_at + _SAY_S:
            return
        self._said_at = time.monotonic()
        self._state.compared_every_s = self.compared_every_s
        self._state.record_versions(self.writer.applied, verified=self.writer.verified_through, now=time.time())
        write_tail_state(self.store.layout, self._state)
