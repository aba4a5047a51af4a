"""A source with landing files: its columns, the meaning of time, and the tables of its rows."""

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import date
from functools import cached_property
from typing import Literal

from forecache.base.errors import SettingsError
from forecache.base.table_names import AS_OF, QUARANTINE, RAW, SOURCE_COLUMNS, TABLE, check_name, check_unique
from forecache.declare.checks import check_fields, check_known, check_value
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.expectations import Expectation, check_columns
from forecache.declare.sources.column import Column, Snapshot, Static, check_source_key
from forecache.declare.sources.extract import Query, StreamDay, check_file_name, check_query, check_stream_day

Missing = Literal["wait", "last", "fail"]


@dataclass(frozen=True)
class Source:
    """A kind of landing file: one or more files a day, as CSV (with header), JSON lines or Parquet.

    Files live in `LANDING/<name>/`; the day of a file is the `day` group of `file_pattern` in its file name and
    rows whose `event_time` lies on another day (UTC) are quarantined.

    Attributes:
        event_time: Column (date or timestamp) with the time of the event; "" if rows are no events, and `time` is
            given.
        start: First day of the source.
        end: Last day, for a source that has ended (a historical data set); None: no end.
        time: `Snapshot()` or `Static()`, if the rows are no events.
        key: Columns that identify a row; a pipeline's key may be another. A snapshot needs one, and a file with a key
            twice is quarantined whole.
        missing: What happens to an as-of date if no file of that day was read. "fail": it is refused. "wait": it is
            refused as not yet due; the schedule skips it, and the sensor `<job>_delivered` runs it once the file is
            there. "last": it runs with the last delivery before.
        extract: Writes the files: a query of a database, or the days of a stream; None: files are delivered from
            outside.
        unique: Columns that identify an event, such as a transaction id, if there are any; duplicates are quarantined.
    """

    name: str
    columns: tuple[Column, ...]
    event_time: str = ""
    _: KW_ONLY
    start: date
    end: date | None = None
    time: Snapshot | Static | None = None
    key: tuple[str, ...] = ()
    missing: Missing = "fail"
    extract: Query | StreamDay | None = None
    unique: tuple[str, ...] = ()
    file_pattern: str = r"(?P<day>\d{4}-\d{2}-\d{2})[^/]*\.(csv|jsonl|parquet)"
    expectations: tuple[Expectation, ...] = ()
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        owner = f"Source {self.name!r}"
        check_fields(owner, self)
        check_name("source", self.name)
        names = [column.name for column in self.columns]
        check_unique("column", f"Source {self.name!r}", [*names, *SOURCE_COLUMNS])
        _check_time(owner, self)
        rule = "A snapshot's day is in the names of its files; `day` is for the column of an existing table."
        is_named = not isinstance(self.time, Snapshot) or self.time.day is None
        check_value(owner, "time", self.time, is_named, rule)
        check_value(owner, "unique", self.unique, not (self.unique and self.time), "Only events have it; give a `key`.")
        check_source_key(owner, self.key, self.columns, self.time)
        check_known(f"{owner} refers to the column", self.unique, names)
        check_columns(owner, self.expectations, [*names, *SOURCE_COLUMNS])
        declared = f"{owner} has the file pattern {self.file_pattern!r}"
        remedy = r"Write it like (?P<day>\d{4}-\d{2}-\d{2})\.csv."
        try:
            groups = re.compile(self.file_pattern).groupindex
        except re.error as error:
            raise SettingsError(f"{declared}, which is no regular expression: {error}.", remedy=remedy) from None
        if "day" not in groups:
            raise SettingsError(f"{declared} without a `day` group.", remedy=remedy)
        if self.extract is not None:
            check_file_name(owner, self.file_pattern)
        if isinstance(self.extract, StreamDay):
            check_stream_day(owner, self.event_time)
        if isinstance(self.extract, Query):
            check_query(owner, self.extract, self.event_time, self.time)
            rule = "A day is asked for when it is needed: there is nothing to wait for."
            check_value(owner, "missing", self.missing, self.missing != "wait", rule)

    @property
    def raw_table(self) -> str:
        """Delta table of the good rows: declared columns plus SOURCE_COLUMNS, partitioned by `event_day` (date)."""
        return RAW + self.name

    @property
    def quarantine_table(self) -> str:
        """Delta table of the bad rows: event_day, source_file, source_line, reason, content, ingested_at."""
        return QUARANTINE + self.name


def _check_time(owner: str, source: "AnySource") -> None:
    """Refuse a source with both or neither of `event_time` and `time`, or with a wrong column or value for them."""
    event_time, time = source.event_time, source.time
    if bool(event_time) == (time is not None):
        both = "both `event_time` and `time`" if event_time else "neither `event_time` nor `time`"
        raise SettingsError(
            f"{owner} has {both}.",
            remedy="Give the column of the event time, or time=Snapshot() or time=Static() where rows are no events.",
        )
    day = time.day if isinstance(time, Snapshot) else None
    for what, name, kinds in (("event_time", event_time, ("date", "timestamp")), ("day", day, ("date",))):
        if not name:
            continue
        types = {column.name: column.type for column in source.columns}
        check_known(f"{owner} refers to the column", [name], types)
        rule = f"It is a {' or '.join(kinds)} column, not a {types[name]}."
        check_value(owner, what, name, types[name] in kinds, rule)
    rule = "Rows without time are never missing; leave it out."
    fits = source.missing == "fail" or not isinstance(time, Static)
    check_value(owner, "missing", source.missing, fits, rule)
    if source.start is not None and source.end is not None:
        rule = f"It is not before the start, {source.start}."
        check_value(owner, "end", source.end, source.end >= source.start, rule)


@dataclass(frozen=True)
class TableSource:
    """An existing table. It is neither copied nor written, and maintenance does not touch it.

    Each run reads the table at one version, which the ledger records; later commits count from the next run on.

    Attributes:
        uri: Folder, or URI that `FORECACHE_STORAGE_OPTIONS` opens (`s3://bucket/table`). Its partitions may be columns.
        columns: The columns that are read. The table has them with these types, or with narrower numbers; their limits
            and `required` are for landing files, which have a quarantine.
        event_time: Column (date or timestamp) with the time of the event; "" if rows are no events, and `time` is
            given.
        format: "delta", or "parquet" for a folder of Parquet files, of which a snapshot needs `Snapshot(day=...)`.
        start: First day; may be None if another source of the pipeline has one.
        end: Last day; None: no end.
        time: `Snapshot()` or `Static()`, if the rows are no events.
        key: Columns that identify a row; a snapshot has at most one row for each key.
        missing: What happens to an as-of date without rows of that day, or without a version of that day; see `Source`.
    """

    name: str
    uri: str
    columns: tuple[Column, ...]
    event_time: str = ""
    _: KW_ONLY
    format: Literal["delta", "parquet"] = "delta"
    start: date | None = None
    end: date | None = None
    time: Snapshot | Static | None = None
    key: tuple[str, ...] = ()
    missing: Missing = "fail"
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        owner = f"Source {self.name!r}"
        check_fields(owner, self)
        check_name("source", self.name)
        check_value(owner, "uri", self.uri, bool(self.uri), "Give the table's folder or URI.")
        scheme = self.uri.partition("://")[0] if "://" in self.uri else "file"
        rule = "Give a folder, or a URI that starts with s3://."
        check_value(owner, "uri", self.uri, scheme in ("file", "s3", "s3a") and "@" not in self.uri, rule)
        names = [column.name for column in self.columns if column.name != self.day_column]
        check_unique("column", owner, [*names, *{self.day_column, "event_day", AS_OF} - {""}])
        for column in self.columns:
            rule = "Limits are for landing files, which have a quarantine; give the features expectations."
            check_value(owner, column.name, column, column.minimum is None and column.maximum is None, rule)
        _check_time(owner, self)
        check_source_key(owner, self.key, self.columns, self.time)
        if self.format == "parquet" and isinstance(self.time, Snapshot) and self.time.day is None:
            raise SettingsError(
                f"{owner} is a snapshot of Parquet files, which have no versions.",
                remedy="Declare the column that says of which day a row is: Snapshot(day=...).",
            )

    @property
    def asset_name(self) -> str:
        return TABLE + self.name

    @property
    def day_column(self) -> str:
        """The column with the day of a row; "" if there is none."""
        return self.event_time or (isinstance(self.time, Snapshot) and self.time.day) or ""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the parts of the declaration that decide which rows are read."""
        columns = [(column.name, column.type) for column in self.columns]
        return fingerprint(columns=columns, event_time=self.event_time, time=self.time, key=self.key)


AnySource = Source | TableSource


def check_first_day(owner: str, sources: Sequence[AnySource]) -> None:
    if all(source.start is None for source in sources):
        raise SettingsError(f"{owner} has no first day.", remedy="Give one of its sources a `start`.")


def first_day(sources: Sequence[AnySource]) -> date:
    """The first day on which every source has rows."""
    return max(source.start for source in sources if source.start)
