"""Cursors: the last row of a stream's table that a local file (ids or tiles) includes.

If the table no longer has exactly this row, it was created again or restored.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.serve.store.encoding.streamed_rows import moments_of
from forecache.stream.table_schema import OFFSET, PARTITION, PLACE, POSITION, RECEIVED_AT


@dataclass(frozen=True, order=True)
class TableCursor:
    """A row of the stream's table; a file with this cursor includes this row and all before it.

    A table that was restored or created again does not have this row.
    """

    position: int
    place: int
    partition: int
    offset: int
    received_us: int


def cursor_of_commit(rows: pa.Table, version: int) -> TableCursor:
    """Return the cursor of the last row of a commit.

    Args:
        rows: At least one, with their partition, offset and time of receipt.
        version: Delta version of the commit.
    """
    return TableCursor(version, rows.num_rows - 1, *_message_of(rows, rows.num_rows - 1))


def last_cursor(rows: pa.Table) -> TableCursor | None:
    """Return the cursor of the last of some rows of the table; None if there are none.

    Args:
        rows: In any order, with position, place, partition, offset and time of receipt.
    """
    if not rows.num_rows:
        return None
    last = int(np.argmax(moments_of(rows)))
    return TableCursor(rows[POSITION][last].as_py(), rows[PLACE][last].as_py(), *_message_of(rows, last))


def has_row(dataset: Any, mark: TableCursor) -> bool:
    """True if a table has exactly this row; if not, it was created again or restored."""
    where = (pc.field(POSITION) == mark.position) & (pc.field(PLACE) == mark.place)
    rows = dataset.to_table([PARTITION, OFFSET, RECEIVED_AT], filter=where)
    received = rows[RECEIVED_AT].cast(pa.int64())
    found = zip(rows[PARTITION].to_pylist(), rows[OFFSET].to_pylist(), received.to_pylist(), strict=True)
    return (mark.partition, mark.offset, mark.received_us) in found


def _message_of(rows: pa.Table, row: int) -> tuple[int, int, int]:
    """Partition, offset and time of receipt of a row."""
    partition, offset = (rows[name][row].as_py() for name in (PARTITION, OFFSET))
    return partition, offset, rows[RECEIVED_AT][row].cast(pa.int64()).as_py()
