"""Reads the rows of a stream's table, and identifies the last one that a local file (ids or tiles) includes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.kit.delta.dataset import open_dataset
from forecache.serve.store.encoding.streamed_rows import moments_of
from forecache.stream.table.schema import OFFSET, PARTITION, PLACE, POSITION, RECEIVED_AT

_BATCH_ROWS = 1 << 16


@dataclass(frozen=True, order=True)
class TableCursor:
    """A row of the stream's table; a file with this cursor includes this row and all before it."""

    position: int
    place: int
    partition: int
    offset: int
    received_us: int


def cursor_of_commit(rows: pa.Table, version: int) -> TableCursor:
    """Return the cursor of the last row of a commit, of at least one row, at a Delta version."""
    return TableCursor(version, rows.num_rows - 1, *_message_of(rows, rows.num_rows - 1))


def last_cursor(rows: pa.Table) -> TableCursor | None:
    """Return the cursor of the last of some rows of the table, given in any order; None if there are none."""
    if not rows.num_rows:
        return None
    last = int(np.argmax(moments_of(rows)))
    return TableCursor(rows[POSITION][last].as_py(), rows[PLACE][last].as_py(), *_message_of(rows, last))


def has_row(dataset: Any, mark: TableCursor) -> bool:
    """Return True if a table has exactly this row; if not, it was created again or restored."""
    where = (pc.field(POSITION) == mark.position) & (pc.field(PLACE) == mark.place)
    rows = dataset.to_table([PARTITION, OFFSET, RECEIVED_AT], filter=where)
    received = rows[RECEIVED_AT].cast(pa.int64())
    found = zip(rows[PARTITION].to_pylist(), rows[OFFSET].to_pylist(), received.to_pylist(), strict=True)
    return (mark.partition, mark.offset, mark.received_us) in found


def _message_of(rows: pa.Table, row: int) -> tuple[int, int, int]:
    """Partition, offset and time of receipt of a row."""
    partition, offset = (rows[name][row].as_py() for name in (PARTITION, OFFSET))
    return partition, offset, rows[RECEIVED_AT][row].cast(pa.int64()).as_py()


class TableRows:
    """The rows of a stream's table at one version, or some of them, `where`; `dataset` has all."""

    def __init__(self, delta: Any, where: pc.Expression | None = None) -> None:
        self.dataset = open_dataset(delta)
        self._delta, self._where = delta, where

    def restrict(self, where: pc.Expression) -> pc.Expression:
        return where if self._where is None else where & self._where

    def read_in_order(self, columns: Sequence[str], where: pc.Expression) -> Iterator[pa.Table]:
        """Yield some rows sorted by position and place; columns that the table lacks are left out."""
        wanted = [name for name in dict.fromkeys([POSITION, PLACE, *columns]) if name in self.dataset.schema.names]
        found = self.dataset.to_table(wanted, filter=self.restrict(where))
        found = found.sort_by([(POSITION, "ascending"), (PLACE, "ascending")])
        for start in range(0, found.num_rows, _BATCH_ROWS):
            yield found.slice(start, _BATCH_ROWS).combine_chunks()

    def find_last_row(self, position: int) -> TableCursor | None:
        """Return the cursor of the last row of a commit; None if the commit has no rows."""
        columns = [POSITION, PLACE, PARTITION, OFFSET, RECEIVED_AT]
        return last_cursor(self.dataset.to_table(columns, filter=pc.field(POSITION) == position))

    @cached_property
    def count(self) -> int:
        """The number of rows; that of all rows from the log if it has the counts of all files."""
        if self._where is not None:
            return int(self.dataset.count_rows(filter=self._where))
        counts = self._delta.get_add_actions(flatten=True).column("num_records").to_pylist()
        return int(self.dataset.count_rows()) if None in counts else sum(counts)

    def count_up_to(self, position: int) -> int:
        return self.count - int(self.dataset.count_rows(filter=self.restrict(pc.field(POSITION) > position)))
