"""The rows of a stream's table in the order of the stream."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from forecache.stream.mark import Mark, last_mark
from forecache.stream.record import OFFSET, PARTITION, PLACE, POSITION, RECEIVED_AT

_BATCH_ROWS = 1 << 16


def rows_in_order(dataset: Any, columns: Sequence[str], where: pc.Expression | None = None) -> Iterator[pa.Table]:
    """Rows of a table by position and place.

    Args:
        columns: Those that the table lacks are left out.
        where: Which rows; None: all.
    """
    wanted = [name for name in dict.fromkeys([POSITION, PLACE, *columns]) if name in dataset.schema.names]
    found = dataset.to_table(wanted, filter=where)
    found = found.sort_by([(POSITION, "ascending"), (PLACE, "ascending")])
    for start in range(0, found.num_rows, _BATCH_ROWS):
        yield found.slice(start, _BATCH_ROWS).combine_chunks()


def last_row(dataset: Any, position: int) -> Mark | None:
    """The last row of a commit; None where it has none."""
    columns = [POSITION, PLACE, PARTITION, OFFSET, RECEIVED_AT]
    return last_mark(dataset.to_table(columns, filter=pc.field(POSITION) == position))
