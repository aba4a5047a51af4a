"""The change data feed of the prediction table, from the published Delta version to the current one."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from forecache.pipeline import AS_OF
from forecache.store.encoding.entries import Encoding
from forecache.store.encoding.prediction_source import plain
from forecache.store.publishing.changes.changes import ChangesUnavailable, RowChanges, Rows
from forecache.store.publishing.publication import Publication
from forecache.store.publishing.worker_pool import num_cores

ORIGIN = "change data feed"
_REMOVED = ["delete", "update_preimage"]
_BLOCK_ROWS = 1 << 16
"""Encoded at a time: larger blocks take fresh memory for what is between, smaller ones more calls."""


def read_feed(publication: Publication, *, limit: int) -> RowChanges | None:
    """Read and encode the feed of the published night, with the published version's encoding.

    Returns:
        None where it has more than `limit` rows, as after the whole night was written again.

    Raises:
        ChangesUnavailable: It was vacuumed, never written, or has another schema.
        InputError: A key is null or too long.
    """
    current, source = publication.current, publication.source
    assert current is not None
    encoding = Encoding(publication.key, publication.fields, current.provenance)
    removed, added = Rows(encoding, keep_entries=False), Rows(encoding, keep_entries=True)
    start, end = current.source.delta_version + 1, source.source.delta_version
    if start > end:
        return RowChanges(removed, added, ORIGIN)
    table = _load(publication, start, end, encoding, limit)
    if table is None:
        return None
    place = f"the change data feed of Delta versions {start} to {end}, row {{}}"

    def encode(rows: Rows, adds: bool) -> np.ndarray:
        """Take in the rows that were added or removed; returns the moments when each was."""
        moments = [np.empty(0, np.int64)]
        for start_row in range(0, len(table), _BLOCK_ROWS):
            block = table.slice(start_row, _BLOCK_ROWS)
            is_removed = pc.is_in(block["_change_type"], pa.array(_REMOVED))
            part = block.filter(pc.invert(is_removed) if adds else is_removed).combine_chunks()
            for batch in part.to_batches():
                rows.add(batch, place)
                # Within one commit a row that was deleted and inserted (a replaced partition) is there afterwards.
                moments.append(2 * batch["_commit_version"].to_numpy().astype(np.int64) + adds)
        return np.concatenate(moments)

    with ThreadPoolExecutor(num_cores()) as threads:
        moments = list(threads.map(encode, (removed, added), (False, True)))
    return RowChanges(removed, added, ORIGIN, None if start == end else np.concatenate(moments))


def _load(publication: Publication, start: int, end: int, encoding: Encoding, limit: int) -> pa.Table | None:
    """The feed's rows, None where there are more than `limit`: then they are not all read."""
    columns = [*encoding.columns(), AS_OF, "_change_type", "_commit_version"]
    batches: list[pa.RecordBatch] = []
    rows = 0
    try:
        feed = pa.RecordBatchReader.from_stream(
            publication.source.table.load_cdf(
                starting_version=start,
                ending_version=end,
                columns=columns,
                predicate=f"{AS_OF} = '{publication.source.source.as_of}'",
            )
        )
        for batch in feed:
            batches.append(plain(batch))
            rows += len(batch)
            if rows > limit:
                return None
    except (DeltaError, OSError, pa.ArrowException) as error:  # what has been vacuumed shows while reading
        text = " ".join(str(error).split())
        raise ChangesUnavailable(
            f"the change data feed from Delta version {start} cannot be had: {text[:300]}"
        ) from None
    return pa.Table.from_batches(batches, plain(feed.schema.empty_table()).schema)
