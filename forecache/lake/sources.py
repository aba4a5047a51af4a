"""Sources at as-of dates: their point-in-time rows, and their states as texts for comparison.

Declared functions get source rows only from `known_rows` and `horizon_rows`, so a feature cannot use the future.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import xxhash

from forecache.base.plugins import load_hook
from forecache.base.settings import Settings
from forecache.declare import AS_OF, AnySource, Source, Static, TableSource
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table, read_table
from forecache.lake.ingest.ingested_files import (
    delivered_days,
    ingested_files,
    last_raw_version,
    require_days,
    state_file,
)
from forecache.lake.ingest.landing import list_landing

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Pins:
    """The existing tables of a run, each pinned once, so that a stage compares, reads and records the same state."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pinned: dict[str, Any] = {}

    def pin(self, source: TableSource) -> Any:
        """The table's state at the first call, a `PinnedTable`; InputError or UnavailableError if it cannot be read."""
        if source.name not in self._pinned:
            self._pinned[source.name] = load_hook("table_sources", "pin_table")(self._settings, source)
        return self._pinned[source.name]

    def details(self, sources: Iterable[AnySource]) -> dict[str, Any]:
        """`pinned` for the ledger: URI and version, or number of files, of each existing table; {} without one."""
        tables = {source.name: self.pin(source).details() for source in sources if isinstance(source, TableSource)}
        return {"pinned": tables} if tables else {}


def known_rows(
    spark: "SparkSession",
    settings: Settings,
    sources: Iterable[AnySource],
    nights: Sequence[date],
    *,
    pins: Pins | None = None,
) -> dict[str, "DataFrame"]:
    """By name of the source, the rows known on each night: the source's columns, `event_day` and `as_of`.

    For events these are all up to and including the night; for a snapshot, the rows of the last state up to it; for
    rows without time, all. `pins` are the existing tables as the run sees them; None: as they are now.
    """
    pins = pins or Pins(settings)
    return {source.name: _source_rows(spark, settings, source, nights, None, pins) for source in sources}


def horizon_rows(
    spark: "SparkSession",
    settings: Settings,
    sources: Iterable[AnySource],
    nights: Sequence[date],
    horizon_days: int,
    *,
    pins: Pins | None = None,
) -> dict[str, "DataFrame"]:
    """By name of the source, the rows in (night, night + horizon]: its columns, `event_day` and `as_of`.

    For a snapshot these are the states delivered in that time; for rows without time, all. Otherwise as `known_rows`.
    """
    pins = pins or Pins(settings)
    return {source.name: _source_rows(spark, settings, source, nights, horizon_days, pins) for source in sources}


def _source_rows(
    spark: "SparkSession",
    settings: Settings,
    source: AnySource,
    nights: Sequence[date],
    horizon_days: int | None,
    pins: Pins,
) -> "DataFrame":
    """The rows known on each night, or with a horizon those after it."""
    if isinstance(source, TableSource):
        rows: DataFrame = load_hook("table_sources", "as_of_rows")(spark, pins.pin(source), nights, horizon_days)
        return rows
    raw = read_table(spark, settings, source.raw_table)
    if source.time is None:
        return cut_events(raw, nights, after=None if horizon_days is None else 0, until=horizon_days or 0)
    return _snapshot_rows(spark, settings, source, raw, nights, horizon_days)


def _snapshot_rows(
    spark: "SparkSession",
    settings: Settings,
    source: Source,
    raw: "DataFrame",
    nights: Sequence[date],
    horizon_days: int | None,
) -> "DataFrame":
    """The rows of the file that is valid on each night, or of every file in its horizon."""
    from pyspark.sql import functions as F

    pairs = [(night, *found) for night in nights for found in state_files(settings, source, night, horizon_days)]
    of_nights = spark.createDataFrame(pairs, f"{AS_OF} date, event_day date, source_file string")
    rows = raw.where(F.col("event_day").isin(sorted({day for _, day, _ in pairs if day})))
    return rows.join(F.broadcast(of_nights), ["event_day", "source_file"]).select(*raw.columns, AS_OF)


def state_files(
    settings: Settings, source: Source, night: date, horizon_days: int | None
) -> list[tuple[date | None, str]]:
    """Day and name of the file of a snapshot that is valid on a night, or of every file in its horizon."""
    files = ingested_files(settings, source)
    if horizon_days is None or isinstance(source.time, Static):
        chosen = [state_file(source, files, night)]
    else:
        last = night + timedelta(days=horizon_days)
        chosen = [state_file(source, files, day) for day in delivered_days(files) if night < day <= last]
    return [(file.event_day, file.file) for file in chosen if file is not None]


def cut_events(events: "DataFrame", nights: Sequence[date], *, after: int | None, until: int) -> "DataFrame":
    """For each night, the events on the days in (night + after, night + until], with `as_of`; None: no lower limit."""
    from pyspark.sql import functions as F

    bounded = events.where(F.col("event_day") <= F.lit(max(nights) + timedelta(days=until)))
    if after is not None:
        bounded = bounded.where(F.col("event_day") > F.lit(min(nights) + timedelta(days=after)))
    days = F.datediff("event_day", F.col(AS_OF))
    dated = bounded.withColumn(AS_OF, F.explode(F.array(*(F.lit(night) for night in sorted(nights)))))
    dated = dated.where(days <= until)
    return dated if after is None else dated.where(days > after)


def state_rows(settings: Settings, source: AnySource, day: date, columns: Sequence[str], *, pins: Pins) -> Any:
    """Columns of the state of a source on a day, or of its rows without time, without Spark; None if there is none.

    InputError if the state of an existing table has a key twice, or a null in one; or if its version was removed.
    """
    import pyarrow.dataset as ds

    if isinstance(source, TableSource):
        return load_hook("table_sources", "existing_table_rows")(pins.pin(source), day, columns)
    state = state_file(source, ingested_files(settings, source), day)
    if state is None:
        return None
    chosen = (ds.field("event_day") == state.event_day) & (ds.field("source_file") == state.file)
    return open_dataset(open_table(settings, source.raw_table)).to_table(list(columns), chosen)


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


def source_states(
    settings: Settings, sources: Sequence[AnySource], nights: Sequence[date], *, pins: Pins | None = None
) -> dict[date, str]:
    """For each night, text of the state of all source rows that it may see."""
    states = [source_state(settings, source, nights, pins=pins) for source in sources]
    return {night: " ".join(state[night] for state in states) for night in nights}


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


def count_rows(settings: Settings, sources: Iterable[AnySource], *, first: date | None = None, last: date) -> int:
    """Number of rows that were ingested of sources from a day (None: the first) to another; without existing tables."""
    days = [
        (file.event_day, file.raw_rows)
        for source in sources
        if not isinstance(source, TableSource)
        for file in ingested_files(settings, source)
    ]
    return sum(rows for day, rows in days if day is not None and day <= last and (first is None or day >= first))


def require_delivered(
    settings: Settings, source: AnySource, nights: Collection[date], *, pins: Pins | None = None
) -> None:
    """Refuse nights for which the source has not delivered, according to its `missing`; raises as `require_days`."""
    if isinstance(source, TableSource):
        pinned = (pins or Pins(settings)).pin(source)
        for night in sorted(nights):
            pinned.require_delivered(night)
        return
    require_days(settings, source, nights)


def find_awaited_sources(settings: Settings, sources: Iterable[AnySource], night: date) -> list[str]:
    """Names of the sources with missing="wait" that have not delivered a night's day."""

    def is_delivered(source: AnySource) -> bool:
        if isinstance(source, TableSource):
            return bool(Pins(settings).pin(source).is_delivered(night))
        landed = any(file.day == night for file in list_landing(settings, source))
        return landed or night in delivered_days(ingested_files(settings, source))

    return [source.name for source in sources if source.missing == "wait" and not is_delivered(source)]
