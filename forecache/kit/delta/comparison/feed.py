"""The change data feed of a partition: the rows that commits removed from it and added to it."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from forecache.kit.delta.comparison.partition import to_plain_types

_REMOVED = pa.array(["delete", "update_preimage"])
_KIND, _VERSION = "_change_type", "_commit_version"


def read_feed(
    table: DeltaTable,
    versions: tuple[int, int],
    columns: Sequence[str],
    partition: tuple[str, str],
    *,
    most_rows: int | None = None,
    most_bytes: int | None = None,
) -> pa.Table | None:
    """Read the feed's rows with columns of the table; None, without reading all, if there are more than allowed.

    Args:
        versions: Delta versions of the first and the last commit.
        partition: Column and value (ISO).

    Raises:
        DeltaError, OSError, pa.ArrowException: The feed was vacuumed, never written, or has another schema.
    """
    column, value = partition
    feed = pa.RecordBatchReader.from_stream(
        table.load_cdf(
            starting_version=versions[0],
            ending_version=versions[1],
            columns=[*columns, column, _KIND, _VERSION],
            predicate=f"{column} = '{value}'",
        )
    )
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in feed:
        batches.append(to_plain_types(batch))
        rows, size = rows + len(batch), size + batch.nbytes
        if (most_rows is not None and rows > most_rows) or (most_bytes is not None and size > most_bytes):
            return None
    return pa.Table.from_batches(batches, to_plain_types(feed.schema.empty_table()).schema)


def select_feed_side(feed: pa.Table, *, added: bool) -> tuple[pa.Table, np.ndarray]:
    """The removed or the added rows of a feed, each with its time; an updated row is among both.

    Returns:
        The rows, and their order in time, int64 [n]: in one commit all rows are removed before any is added.
    """
    is_removed = pc.is_in(feed[_KIND], _REMOVED)
    rows = feed.filter(pc.invert(is_removed) if added else is_removed)
    return rows, 2 * rows[_VERSION].to_numpy().astype(np.int64) + added
