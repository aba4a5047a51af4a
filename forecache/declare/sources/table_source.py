"""An existing Delta or Parquet table, which is read in place."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import date
from functools import cached_property
from typing import Literal

from forecache.base.errors import SettingsError
from forecache.base.table_names import AS_OF, TABLE, check_name, check_unique
from forecache.declare.checks.fields import check_fields, check_value
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.sources.column import Column
from forecache.declare.sources.keys import check_source_key
from forecache.declare.sources.source import Missing, Source, check_time
from forecache.declare.sources.source_time import Snapshot, Static


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
        check_time(owner, self.event_time, self.time, self.columns)
        check_source_key(owner, self.key, self.columns, self.time)
        rule = "Rows without time are never missing; leave it out."
        check_value(owner, "missing", self.missing, self.missing == "fail" or not isinstance(self.time, Static), rule)
        if self.start is not None and self.end is not None:
            check_value(owner, "end", self.end, self.end >= self.start, f"It is not before the start, {self.start}.")
        if self.format == "parquet" and isinstance(self.time, Snapshot) and self.time.day is None:
            raise SettingsError(
                f"{owner} is a snapshot of Parquet files, which have no versions.",
                remedy="Declare the column that says of which day a row is: Snapshot(day=...).",
            )

    @property
    def asset_name(self) -> str:
        """Name of its asset in Dagster."""
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
    """Refuse sources of which none has a first day."""
    if all(source.start is None for source in sources):
        raise SettingsError(f"{owner} has no first day.", remedy="Give one of its sources a `start`.")


def first_day(sources: Sequence[AnySource]) -> date:
    """The first day on which every source has rows."""
    return max(source.start for source in sources if source.start)
