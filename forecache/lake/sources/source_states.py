"""The state of a source that a night depends on, as text for comparison, and checks that it has delivered."""

from collections.abc import Collection, Iterable
from datetime import date, timedelta
from urllib.parse import quote

import xxhash

from forecache.base.errors import InputError, NotYetError
from forecache.base.settings import Settings
from forecache.declare import AnySource, TableSource
from forecache.lake.ingest.ingested_files import (
    delivered_days,
    ingested_files,
    last_raw_version,
    require_days,
    state_file,
)
from forecache.lake.ingest.landing import list_landing
from forecache.lake.sources.tables.pinned_table import PinnedTable
from forecache.lake.sources.tables.pins import Pins


def source_state(
    settings: Settings, source: AnySource, nights: Collection[date], *, pins: Pins | None = None
) -> dict[date, str]:
    """By night, a text that changes if the source rows that the night may see change."""
    if isinstance(source, TableSource):
        pinned = (pins or Pins(settings)).pin(source)
        return {night: pinned.state(night) for night in nights}
    files = ingested_files(settings, source)
    if source.time is None:
        return {
            night: f"{source.raw_table}@{last_raw_version(settings, source, night, files=files)}" for night in nights
        }
    states = {}
    for night in nights:
        file = state_file(source, files, night)
        version, name = (file.raw_version, quote(file.file)) if file else (-1, "none")
        states[night] = f"{source.raw_table}@{version} {source.name}={name}"
    return states


def state_history(settings: Settings, source: AnySource, first: date, last: date, *, pins: Pins | None = None) -> str:
    """A text that changes if the snapshot of any day from `first` to `last` changes; "" for events.

    The snapshot of a night does not cover earlier ones, which training rows use; for events `source_state` covers all.
    """
    if source.time is None:
        return ""
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    states = source_state(settings, source, days, pins=pins)
    text = "\n".join(states[day] for day in days)
    return f" {source.name}_before@{xxhash.xxh3_128_hexdigest(text.encode())}"


def require_delivered(
    settings: Settings, source: AnySource, nights: Collection[date], *, pins: Pins | None = None
) -> None:
    """Refuse nights for which the source has not delivered, according to its `missing`; raises as `require_days`."""
    if isinstance(source, TableSource):
        pinned = (pins or Pins(settings)).pin(source)
        for night in sorted(nights):
            _require_in_table(pinned, night)
        return
    require_days(settings, source, nights)


def _require_in_table(pinned: PinnedTable, night: date) -> None:
    source, uri = pinned.source, pinned.place.uri
    if pinned.is_delivered(night) or (source.missing == "last" and pinned.has_state(night)):
        return
    lacks = f"no version of {uri} was committed" if pinned.is_by_version else f"{uri} has no row of"
    if source.missing == "wait":
        raise NotYetError(
            f"The night {night} waits for source {source.name!r}: {lacks} that day.", remedy="Run again when it is."
        )
    before = f"{uri} has none before it either" if not pinned.has_state(night) else ""
    raise InputError(
        f"The night {night} is empty: for source {source.name!r} {lacks} that day.",
        remedy=f"Run a later night: {before}." if before else 'missing="last" goes on with what was there before.',
    )


def find_awaited_sources(settings: Settings, sources: Iterable[AnySource], night: date) -> list[str]:
    """Names of the sources with missing="wait" that have not delivered a night's day."""
    waiting = []
    for source in sources:
        if source.missing != "wait":
            continue
        if isinstance(source, TableSource):
            is_there = Pins(settings).pin(source).is_delivered(night)
        else:
            landed = any(file.day == night for file in list_landing(settings, source))
            is_there = landed or night in delivered_days(ingested_files(settings, source))
        if not is_there:
            waiting.append(source.name)
    return waiting
