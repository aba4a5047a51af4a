"""Reads the log of a stream's table: the rows that each commit added."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from forecache.base.errors import DamagedError
from forecache.base.settings import Settings
from forecache.kit.delta.comparison.partition import to_plain_types
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import place_of
from forecache.kit.delta.log import read_entry
from forecache.serve.store.encoding.streamed_rows import PLACE, POSITION, StreamTable, open_stream_table

_REMEMBERED = 8


@dataclass(frozen=True)
class LogCommit:
    version: int
    rows: pa.Table | None  # in the order of the stream; None if none were added, as by a compaction
    removes: bool  # it removed rows, which no stream does: somebody has changed the table by hand


class TableLog:
    """Reads commits of the table of one stream, and remembers some for others that share it, such as layers."""

    def __init__(
        self, settings: Settings, table: str, *, remembered: int = _REMEMBERED, checks_positions: bool = True
    ) -> None:
        self._settings, self.table, self._most = settings, table, remembered
        self._checks_positions = checks_positions
        self._files = place_of(settings, table).open()
        self._remembered: OrderedDict[int, LogCommit] = OrderedDict()

    def open_newest(self) -> StreamTable:
        return open_stream_table(self._settings, self.table)

    def read_commit(self, version: int) -> LogCommit | None:
        """Read an entry with its rows; None if it does not exist (yet), or it or one of its files was cleaned up.

        DamagedError if a row has the position of another commit.
        """
        if version in self._remembered:
            return self._remembered[version]
        try:
            found = self._read(version)
        except FileNotFoundError:
            return None
        self._remembered[version] = found
        while len(self._remembered) > self._most:
            self._remembered.popitem(last=False)
        return found

    def _read(self, version: int) -> LogCommit:
        actions = read_entry(self._files, version, self.table)
        added = [action["add"] for action in actions if "add" in action]
        parts = [self._rows(add) for add in added if add.get("dataChange", True)]
        removes = any(action["remove"].get("dataChange", True) for action in actions if "remove" in action)
        rows = pa.concat_tables(parts, promote_options="default") if parts else None
        if rows is not None:
            rows = rows.sort_by(PLACE).combine_chunks()
            if self._checks_positions:
                self._check_positions(rows, version)
        return LogCommit(version, rows if rows is not None and len(rows) else None, removes)

    def _rows(self, add: dict[str, Any]) -> pa.Table:
        with open_data_file(self._files, unquote(add["path"]), self.table) as source:
            rows = to_plain_types(pq.ParquetFile(source, coerce_int96_timestamp_unit="us").read())
        for name, value in add["partitionValues"].items():
            rows = rows.append_column(name, pa.repeat(pa.scalar(value, pa.string()), rows.num_rows))
        return rows

    def _check_positions(self, rows: pa.Table, version: int) -> None:
        wrong = set(rows.column(POSITION).unique().to_pylist()) - {version}
        if wrong:
            raise DamagedError(
                f"The commit {version} of the table {self.table} has rows whose position is {min(wrong)}.",
                remedy="No engine of streams wrote them: stop what did, and restore the table to the version before.",
            )
