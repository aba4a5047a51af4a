"""What a live layer has to keep: rows above the smallest cut of the versions that may be served, and those of late."""

import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from forecache.errors import ForecacheError
from forecache.store.encoding.stream_source import StreamTable
from forecache.store.live.layer import LiveLayer
from forecache.store.live.numbers import NEVER
from forecache.store.store import Store, manifest_of


@dataclass(frozen=True)
class Kept:
    """By the retained versions of a store, which every version that is served, pinned or open is one of.

    Attributes:
        floor: The smallest cut: no version needs a row at or below it. -1: some version, or none at all, has no cut.
        night: The smallest as-of date; None: there is no version.
    """

    floor: int
    night: date | None


NOTHING = Kept(-1, None)


def kept_by(store: Store, layer: LiveLayer) -> Kept | None:
    """What the versions of a store need; None where one cannot be read, so that nothing may be removed.

    A version that is of another stream, or of none, includes nothing of this one.
    """
    try:
        pointer = store.pointer()
        if pointer.serving is None:
            return NOTHING
        # Behind the last one there may be a version that is still being published, or whose publish has died.
        numbers = [number for number in store.version_numbers() if number <= pointer.last]
        manifests = [manifest_of(store.layout, number) for number in numbers]
    except FileNotFoundError:
        return None  # retired meanwhile: the next look sees the others
    except ForecacheError:
        return None
    if not manifests:
        return NOTHING
    cuts = [manifest.cut if manifest.stream == layer.stream else -1 for manifest in manifests]
    return Kept(min(cuts), date.fromisoformat(min(manifest.as_of for manifest in manifests)))


def first_day(layer: LiveLayer, kept: Kept | None, table: StreamTable) -> date | None:
    """The day before which no event counts any more; None: all do."""
    if layer.kind == "tiles":
        return None if kept is None else kept.night  # the day before the first that counts, for windows in minutes
    if layer.keep_h is None:
        return None
    newest = min(table.newest_day() or date.max, datetime.now(timezone.utc).date())
    return newest - timedelta(hours=layer.keep_h) - timedelta(days=1)


def expire_before_us(layer: LiveLayer, kept: Kept | None, newest_event_us: int) -> int:
    """Event time before which rows are removed; it moves in steps, so that rows are not all looked at each time.

    Args:
        newest_event_us: Of all that was applied; 0: nothing was.
    """
    if layer.kind == "tiles":
        night = None if kept is None else kept.night
        if night is None:
            return NEVER
        return int(datetime(night.year, night.month, night.day, tzinfo=timezone.utc).timestamp() * 1e6)
    if layer.keep_h is None or newest_event_us <= 0:
        return NEVER
    keep_us = int(layer.keep_h * 3_600_000_000)
    # A clock that is wrong somewhere must not expire everything.
    newest = min(newest_event_us, time.time_ns() // 1000)
    step = max(keep_us // 100, 1)
    return (newest - keep_us) // step * step
