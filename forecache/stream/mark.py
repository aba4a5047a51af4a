"""Marks the last row of a stream's table that a file beside the stream's state has.

Where the table no longer has this very row, it was made anew or restored.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.store.encoding.streamed_rows import moments_of
from forecache.stream.record import OFFSET, PARTITION, PLACE, POSITION, RECEIVED_AT


@dataclass(frozen=True, order=True)
class Mark:
    """A row of the stream's table: what it marks has this row and all before it. No other history has this very row."""

    position: int
    place: int
    partition: int
    offset: int
    received_us: int


def mark_of_commit(rows: pa.Table, version: int) -> Mark:
    """The last of the rows that a commit has written.

    Args:
        rows: At least one, with their partition, offset and time of receipt.
        version: Of the table with these rows.
    """
    return Mark(version, rows.num_rows - 1, *_source_of(rows, rows.num_rows - 1))


def last_mark(rows: pa.Table) -> Mark | None:
    """The last one of rows of the table, in its order; None where there are none.

    Args:
        rows: In any order, with their position and place too.
    """
    if not rows.num_rows:
        return None
    last = int(np.argmax(moments_of(rows)))
    return Mark(rows[POSITION][last].as_py(), rows[PLACE][last].as_py(), *_source_of(rows, last))


def has_row(dataset: Any, mark: Mark) -> bool:
    """Whether a table has the row: if not, it was made anew or restored, and has another history."""
    where = (pc.field(POSITION) == mark.position) & (pc.field(PLACE) == mark.place)
    rows = dataset.to_table([PARTITION, OFFSET, RECEIVED_AT], filter=where)
    received = rows[RECEIVED_AT].cast(pa.int64())
    found = zip(rows[PARTITION].to_pylist(), rows[OFFSET].to_pylist(), received.to_pylist(), strict=True)
    return (mark.partition, mark.offset, mark.received_us) in found


def _source_of(rows: pa.Table, row: int) -> tuple[int, int, int]:
    """Partition, offset and time of receipt of a row."""
    partition, offset = (rows[name][row].as_py() for name in (PARTITION, OFFSET))
    return partition, offset, rows[RECEIVED_AT][row].cast(pa.int64()).as_py()
