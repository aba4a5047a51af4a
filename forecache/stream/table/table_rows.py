"""Reads and counts the rows of a stream's table."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from forecache.kit.delta.dataset import open_dataset
from forecache.stream.table_cursor import TableCursor, last_cursor
from forecache.stream.table_schema import OFFSET, PARTITION, PLACE, POSITION, RECEIVED_AT

_BATCH_ROWS = 1 << 16


class TableRows:
    """The rows of a stream's table at one version.

    Attributes:
        dataset: All rows.
    """

    def __init__(self, delta: Any) -> None:
        self.dataset = open_dataset(delta)
        self._delta = delta

    def read_in_order(self, columns: Sequence[str], where: pc.Expression) -> Iterator[pa.Table]:
        """Yield some rows sorted by position and place.

        Args:
            columns: Columns that the table lacks are left out.
        """
        wanted = [name for name in dict.fromkeys([POSITION, PLACE, *columns]) if name in self.dataset.schema.names]
        found = self.dataset.to_table(wanted, filter=where)
        found = found.sort_by([(POSITION, "ascending"), (PLACE, "ascending")])
        for start in range(0, found.num_rows, _BATCH_ROWS):
            yield found.slice(start, _BATCH_ROWS).combine_chunks()

    def find_last_row(self, position: int) -> TableCursor | None:
        """Return the cursor of the last row of a commit; None if the commit has no rows."""
        columns = [POSITION, PLACE, PARTITION, OFFSET, RECEIVED_AT]
        return last_cursor(self.dataset.to_table(columns, filter=pc.field(POSITION) == position))

    @cached_property
    def count(self) -> int:
        """The number of rows, from the log if it has the counts of all files."""
        counts = self._delta.get_add_actions(flatten=True).column("num_records").to_pylist()
        return int(self.dataset.count_rows()) if None in counts else sum(counts)

    def count_up_to(self, position: int) -> int:
        """Return the number of rows up to a position."""
        return self.count - int(self.dataset.count_rows(filter=pc.field(POSITION) > position))
