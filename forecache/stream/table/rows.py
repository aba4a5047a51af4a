"""The rows of a stream's table in the order of the stream."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from forecache.lake.delta.log import open_if_exists
from forecache.settings import Settings
from forecache.stream.record import PLACE, POSITION

_BATCH_ROWS = 1 << 16


def rows_in_order(
    settings: Settings, table: str, columns: Sequence[str], where: pc.Expression | None = None
) -> Iterator[pa.Table]:
    """Rows of a table at its newest version, by position and place; none where there is no table.

    Args:
        columns: Those that the table lacks are left out.
        where: Which rows; None: all.
    """
    delta = open_if_exists(settings, table)
    if delta is None:
        return
    dataset = delta.to_pyarrow_dataset()
    wanted = [name for name in dict.fromkeys([POSITION, PLACE, *columns]) if name in dataset.schema.names]
    found = dataset.to_table(wanted, filter=where)
    found = found.sort_by([(POSITION, "ascending"), (PLACE, "ascending")])
    for start in range(0, found.num_rows, _BATCH_ROWS):
        yield found.slice(start, _BATCH_ROWS).combine_chunks()
