"""An existing table pinned at one state for a run, whatever others write meanwhile, and the rows each night may see."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from typing import TYPE_CHECKING

import xxhash

from forecache.base.errors import InputError, NotYetError, UnavailableError
from forecache.declare import ColumnType, Snapshot, Static, TableSource
from forecache.kit.delta.files import Place

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NANOSECONDS = "bigint"
"""The type with which Spark reads a time in nanoseconds."""
_FITS: dict[str, tuple[str, ...]] = {
    "string": ("string", "large_string"),
    "int": ("integer", "short", "byte", "int32", "int16", "int8"),
    "bigint": ("long", "integer", "short", "byte", "int64", "int32", "int16", "int8"),
    "double": ("double", "float", "float64", "float32"),
    "date": ("date", "date32[day]"),
    "timestamp": ("timestamp", "timestamp_ntz"),
    "boolean": ("boolean", "bool"),
}
"""By declared type, the types of Delta and of Arrow whose values all fit; a decimal is also read as a double."""
_DECIMAL = re.compile(r"decimal\d*\((\d+), ?(-?\d+)\)")


@dataclass(frozen=True)
class PinnedFile:
    """A file of a table."""

    path: str
    identity: str  # changes if the file's rows change
    first: date | None = None  # day of its rows by the table's statistics; None: not known
    last: date | None = None  # included


@dataclass(frozen=True)
class PinnedTable:
    """A table at one state."""

    source: TableSource
    place: Place
    table_id: str  # changes if the table is created again; "" for Parquet
    version: int | None  # None for Parquet
    files: tuple[PinnedFile, ...]
    commits: tuple[tuple[int, datetime], ...] = ()  # versions that are states of a snapshot by versions, and times
    mark: str = ""  # for changes that the files do not show, such as the last deletion within them
    read_types: Mapping[str, str] = field(default_factory=dict)  # of Parquet, unless as declared
    states: dict[int, "DataFrame"] = field(default_factory=dict, compare=False, repr=False)  # by version

    @property
    def is_by_version(self) -> bool:
        """True if the states of a snapshot are versions of the table."""
        return isinstance(self.source.time, Snapshot) and self.source.time.day is None

    def version_of(self, night: date) -> int | None:
        """The last version committed before a night's end; None if there is none (any more)."""
        end = datetime.combine(night + timedelta(days=1), time(), timezone.utc)
        found = [version for version, at in self.commits if at < end]
        return found[-1] if found else None

    def newest_equal_version(self, version: int) -> int:
        """The newest version with the same rows as a state: its files are kept the longest."""
        later = [other for other, _ in self.commits if other > version]
        return min(later) - 1 if later or self.version is None else self.version

    def commit_days(self) -> list[date]:
        """The days with a commit, ascending."""
        return sorted({at.date() for _, at in self.commits})

    def day_of(self, night: date) -> date | None:
        """The day of the last state up to a night, by the files; only valid if each has rows of one known day."""
        days = [file.first for file in self.files if file.first is not None and file.first <= night]
        return max(days, default=None)

    @property
    def has_one_day_files(self) -> bool:
        """True if each file is known to have rows of one day only."""
        return all(file.first is not None and file.first == file.last for file in self.files)

    def state(self, night: date) -> str:
        """A text that changes if the rows that the night may see change."""
        if self.is_by_version:
            what = f"version {self.version_of(night)}"
        else:
            what = "\n".join(sorted(file.identity for file in self._visible_files(night)))
        text = "\n".join([self.source.fingerprint, self.table_id, self.mark, what])
        return f"{self.source.asset_name}@{xxhash.xxh3_128_hexdigest(text.encode())}"

    def _visible_files(self, night: date) -> Iterable[PinnedFile]:
        if isinstance(self.source.time, Static):
            return self.files
        if isinstance(self.source.time, Snapshot) and self.has_one_day_files:
            day = self.day_of(night)
            return [file for file in self.files if file.first == day]
        return [file for file in self.files if file.first is None or file.first <= night]

    def is_delivered(self, night: date) -> bool:
        """Return whether the table has a version of the night's day, or by its statistics may have rows of it."""
        if isinstance(self.source.time, Static):
            return True
        if self.is_by_version:
            return night in self.commit_days()
        return any((f.first is None or f.first <= night) and (f.last is None or night <= f.last) for f in self.files)

    def has_state(self, night: date) -> bool:
        """Return whether there is a state, or any rows, for the night."""
        if self.is_by_version:
            return self.version_of(night) is not None
        return bool(list(self._visible_files(night)))

    def require_delivered(self, night: date) -> None:
        """Refuse a night for which the table has nothing, according to the source's `missing`."""
        source, uri = self.source, self.place.uri
        if self.is_delivered(night) or (source.missing == "last" and self.has_state(night)):
            return
        lacks = f"no version of {uri} was committed" if self.is_by_version else f"{uri} has no row of"
        if source.missing == "wait":
            raise NotYetError(
                f"As-of date {night} waits for source {source.name!r}: {lacks} that day.",
                remedy="Run again when it is.",
            )
        raise InputError(
            f"As-of date {night} is empty: for source {source.name!r} {lacks} that day.",
            remedy='missing="last" goes on with what was there before.'
            if self.has_state(night)
            else f"Run a later date: {uri} has none before it either.",
        )

    def details(self) -> dict[str, str | int]:
        """URI and version, or number of files, for the ledger."""
        pinned: dict[str, str | int] = {"uri": self.place.uri}
        return pinned | ({"files": len(self.files)} if self.version is None else {"version": self.version})


def unavailable_error(source: TableSource, uri: str, error: Exception) -> UnavailableError:
    """The error for a table, or a file of it, that does not open."""
    return UnavailableError(
        f"Source {source.name!r} cannot be read: {uri} does not open: {str(error).splitlines()[0]}.",
        remedy="Check its `uri` and FORECACHE_STORAGE_OPTIONS.",
    )


def source_error(source: TableSource, what: str, remedy: str) -> InputError:
    """The error for a table that cannot be read as declared."""
    return InputError(f"Source {source.name!r} cannot be read: {what}.", remedy=remedy)


def require_source_columns(source: TableSource, types: Mapping[str, str], *, where: str) -> None:
    """Refuse a table that lacks a declared column, or has it with a type (in Delta or Arrow) that does not fit."""
    for column in source.columns:
        found = types.get(column.name)
        if found is None:
            listed = ", ".join(types) or "none"
            raise source_error(
                source,
                f"{where} has no column {column.name!r}",
                f"Declare the columns that it has ({listed}), or mend the table.",
            )
        if not _fits(found, column.type):
            raise source_error(
                source,
                f"in {where} the column {column.name!r} is a {found}, and it is declared as a {column.type}",
                "Declare the type that the table has, or mend the table.",
            )


def _fits(found: str, declared: ColumnType) -> bool:
    if found in _FITS[declared]:
        return True
    decimal = _DECIMAL.match(found)
    if decimal is not None:
        is_whole = int(decimal[1]) <= 18 and int(decimal[2]) == 0
        return declared == "double" or (declared == "bigint" and is_whole)
    return declared == "timestamp" and found.startswith("timestamp[")
