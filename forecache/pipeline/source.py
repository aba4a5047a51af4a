"""A kind of landing file, its columns, and the tables that its rows end in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

from forecache.errors import SettingsError
from forecache.pipeline.checking import check_fields, check_value
from forecache.pipeline.expectations import Expectation, check_columns
from forecache.pipeline.names import QUARANTINE, RAW, SOURCE_COLUMNS, check_column, check_name, check_unique

ColumnType = Literal["string", "int", "bigint", "double", "date", "timestamp", "boolean"]


@dataclass(frozen=True)
class Column:
    """A column of a source. Rows that break the type, `required`, `minimum` or `maximum` go to quarantine."""

    name: str
    type: ColumnType
    required: bool = True
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""

    def __post_init__(self) -> None:
        owner = f"Column {self.name!r}"
        check_fields(owner, self)
        check_column("A column", self.name)
        for name in ("minimum", "maximum"):
            numeric = getattr(self, name) is None or self.type in ("int", "bigint", "double")
            check_value(owner, name, getattr(self, name), numeric, f"A {self.type} has no limits.")
        if self.minimum is not None and self.maximum is not None:
            rule = f"It is not below the minimum, {self.minimum:g}."
            check_value(owner, "maximum", self.maximum, self.minimum <= self.maximum, rule)


@dataclass(frozen=True)
class Source:
    """A kind of landing file: one or more files a day, as CSV (with header), JSON lines or Parquet.

    Files live in `LANDING/<name>/`; the day of a file is the `day` group of `file_pattern` in its file name and
    rows whose `event_time` lies on another day (UTC) are quarantined.

    Attributes:
        event_time: Column (date or timestamp) that says when the event happened.
        unique: Columns that identify an event, where the source has such (a transaction id); repeats are quarantined.
        start: First day of the source.
        end: Last day, for a source that has ended (a historical data set); None while it goes on.
    """

    name: str
    columns: tuple[Column, ...]
    event_time: str
    start: date
    end: date | None = None
    unique: tuple[str, ...] = ()
    file_pattern: str = r"(?P<day>\d{4}-\d{2}-\d{2})[^/]*\.(csv|jsonl|parquet)"
    expectations: tuple[Expectation, ...] = ()
    description: str = ""
    owner: str = "data-platform@example.com"

    def __post_init__(self) -> None:
        owner = f"Source {self.name!r}"
        check_fields(owner, self)
        check_name("source", self.name)
        names = [column.name for column in self.columns]
        check_unique("column", f"Source {self.name!r}", [*names, *SOURCE_COLUMNS])
        for wanted in (self.event_time, *self.unique):
            if wanted not in names:
                raise SettingsError(
                    f"Source {self.name!r} refers to the column {wanted!r}, which it does not declare.",
                    remedy=f"Its columns are {', '.join(names)}.",
                )
        kind = next(column.type for column in self.columns if column.name == self.event_time)
        in_time = kind in ("date", "timestamp")
        check_value(owner, "event_time", self.event_time, in_time, f"It is a date or timestamp column, not a {kind}.")
        if self.end is not None:
            check_value(owner, "end", self.end, self.end >= self.start, f"It is not before the start, {self.start}.")
        check_columns(owner, self.expectations, [*names, *SOURCE_COLUMNS])
        if "day" not in self._groups():
            raise SettingsError(
                f"Source {self.name!r} has the file pattern {self.file_pattern!r} without a `day` group.",
                remedy=r"Write it like (?P<day>\d{4}-\d{2}-\d{2})\.csv.",
            )

    def _groups(self) -> Mapping[str, int]:
        try:
            return re.compile(self.file_pattern).groupindex
        except re.error as error:
            raise SettingsError(
                f"Source {self.name!r} has the file pattern {self.file_pattern!r}, which is no regular expression: "
                f"{error}.",
                remedy=r"Write it like (?P<day>\d{4}-\d{2}-\d{2})\.csv.",
            ) from None

    @property
    def raw_table(self) -> str:
        """Delta table of the good rows: declared columns plus SOURCE_COLUMNS, partitioned by `event_day` (date)."""
        return RAW + self.name

    @property
    def quarantine_table(self) -> str:
        """Delta table of the bad rows: event_day, source_file, source_line, reason, content, ingested_at."""
        return QUARANTINE + self.name
