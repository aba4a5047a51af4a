"""Retention of a live layer's rows: those above the smallest cut-off of the retained versions, and recent ones."""

import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from forecache.base.errors import ForecacheError
from forecache.serve.store.encoding.streamed_rows import StreamTable
from forecache.serve.store.live.layer import LiveLayer
from forecache.serve.store.live.writer import NEVER
from forecache.serve.store.store import Store, manifest_of


@dataclass(frozen=True)
class RetentionBounds:
    """The oldest position and as-of date that any retained version of a store needs.

    Every version that is served, pinned or open is a retained one.

    Attributes:
        floor: The smallest cut-off: no version needs a row at or below it. -1: there is no version, or one without a
            cut-off.
        night: The smallest as-of date; None: there is no version.
    """

    floor: int
    night: date | None


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

    Args:
        newest_event_us: Newest event time of all applied rows; 0: nothing was applied.
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
