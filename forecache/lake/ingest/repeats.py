"""Rows and files that are not for the raw table though each row is good: repeated events, and states that are no state.

DuckDB compares the staged rows of the files with each other and with the raw table, on disk if they exceed its memory.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.base.settings import Settings
from forecache.declare import Source
from forecache.kit.delta.dataset import open_dataset, read_few_ahead
from forecache.kit.delta.tables import open_table
from forecache.lake.ingest.typed_rows import LINE
from forecache.lake.query import quote_name, quote_text, scratch_database

if TYPE_CHECKING:
    import duckdb
    import numpy as np

# No declared column has a name with a blank.
PLACE = "staged place"  # of a row among all of them, in the order of the files' names


@dataclass(frozen=True)
class StagedFile:
    """The good rows of a landing file in a Parquet file of this machine: typed columns, LINE and PLACE."""

    name: str
    day: date
    path: Path
    bad: int  # rows


class StagedRows:
    """The staged rows of files, and the rows of other files in the raw table at a version (-1: there is none)."""

    def __init__(self, settings: Settings, source: Source, files: Sequence[StagedFile], *, raw_version: int) -> None:
        self._settings, self._source, self._files = settings, source, files
        self._raw_version = raw_version

    def find_repeated_rows(self, own_files: Collection[str]) -> "np.ndarray":
        """Places of rows, ascending, whose event an earlier row has, or the raw table of a file besides `own_files`."""
        names = self._source.unique
        columns = _quote_all(names)
        is_same = " AND ".join(f"g.{name} IS NOT DISTINCT FROM t.{name}" for name in map(quote_name, names))
        sql = f"""
            WITH twice AS (
                SELECT {columns}, min("{PLACE}") AS "first place" FROM good GROUP BY {columns} HAVING count(*) > 1
            )
            SELECT g."{PLACE}" FROM good g JOIN twice t ON {is_same} WHERE g."{PLACE}" <> t."first place"
        """
        if self._raw_version >= 0:
            equal = " AND ".join(f"g.{name} = r.{name}" for name in map(quote_name, names))
            sql += f' UNION SELECT g."{PLACE}" FROM good g SEMI JOIN others r ON {equal}'
        with self._open(own_files) as connection:
            return connection.sql(f'SELECT "{PLACE}" FROM ({sql}) ORDER BY "{PLACE}"').fetchnumpy()[PLACE]

    def find_repeated_keys(self) -> dict[str, str]:
        """Files that have a key twice, with the reason: which of the rows is right is unknown."""
        keys = self._source.key
        sql = f"""
            SELECT source_file, min({LINE}), max({LINE}), {_quote_all(keys)}
            FROM good GROUP BY source_file, {_quote_all(keys)} HAVING count(*) > 1 ORDER BY 1, 2 DESC
        """
        reasons = {}
        with self._open(()) as connection:
            for name, first, last, *values in connection.sql(sql).fetchall():
                told = ", ".join(f"{key} {_text(value)}" for key, value in zip(keys, values, strict=True))
                reasons[name] = f"it has the key {told} in lines {first} and {last}"
        return reasons

    def find_partial_files(self, own_files: Collection[str], days: Collection[date]) -> dict[str, str]:
        """Files of days with several that share no key with another of their day, with the reason.

        Such a file is a part, and one file has to be the state.
        """
        keys = _quote_all(self._source.key)
        known = f"SELECT event_day, source_file, {keys} FROM good"
        if self._raw_version >= 0:
            known += f" UNION ALL SELECT event_day, source_file, {keys} FROM others"
        sql = f"""
            WITH known AS MATERIALIZED ({known}), shared AS (
                SELECT unnest(list(DISTINCT source_file)) AS shared_file FROM known GROUP BY event_day, {keys}
                HAVING count(DISTINCT source_file) > 1
            )
            SELECT DISTINCT event_day, source_file, source_file IN (SELECT shared_file FROM shared) FROM known
            WHERE event_day IN (SELECT unnest($1::DATE[]))
        """
        with self._open(own_files) as connection:
            found = connection.execute(sql, [sorted(days)]).fetchall()
        reasons = {}
        for file in self._files:
            others = sorted(name for day, name, _ in found if day == file.day and name != file.name)
            if others and (file.day, file.name, False) in found:
                reasons[file.name] = f"it has no key of '{others[0]}', a file of the same day: a state is one file"
        return reasons

    @contextmanager
    def _open(self, own_files: Collection[str]) -> "Iterator[duckdb.DuckDBPyConnection]":
        """DuckDB with the view `good`, with columns `source_file` and `event_day`.

        With `own_files` also with `others`, the rows of other files in the raw table, for one query.
        """
        with scratch_database(self._settings) as connection:
            self._add_views(connection, own_files)
            yield connection

    def _add_views(self, connection: "duckdb.DuckDBPyConnection", own_files: Collection[str]) -> None:
        paths = ", ".join(quote_text(str(file.path)) for file in self._files)
        named = ", ".join(
            f"({quote_text(str(file.path))}, {quote_text(file.name)}, DATE '{file.day}')" for file in self._files
        )
        connection.execute(
            f"CREATE VIEW good AS SELECT rows.*, files.source_file, files.event_day "
            f"FROM read_parquet([{paths}], filename = 'staged path') AS rows "
            f'JOIN (VALUES {named}) AS files(path, source_file, event_day) ON rows."staged path" = files.path'
        )
        if self._raw_version >= 0 and own_files:
            table = open_table(self._settings, self._source.raw_table, version=self._raw_version)
            columns = self._source.unique or (*self._source.key, "event_day")
            connection.register("raw", read_few_ahead(open_dataset(table), [*columns, "source_file"]))
            left_out = ", ".join(map(quote_text, own_files))
            connection.execute(f"CREATE TEMP VIEW others AS SELECT * FROM raw WHERE source_file NOT IN ({left_out})")


def _quote_all(names: Sequence[str]) -> str:
    return ", ".join(map(quote_name, names))


def _text(value: Any) -> str:
    """The text of a key's value: a string, an integer or a date."""
    return "null" if value is None else str(value)
