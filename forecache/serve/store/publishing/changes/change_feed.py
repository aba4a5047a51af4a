"""The change data feed of the prediction table, from the published Delta version to the current one."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
from deltalake.exceptions import DeltaError

from forecache.declare import AS_OF
from forecache.kit.delta.comparison import feed
from forecache.serve.store.publishing.changes.row_changes import ChangedRows, ChangesUnavailable, RowChanges
from forecache.serve.store.publishing.publication import Publication
from forecache.serve.store.publishing.worker_pool import num_cores

ORIGIN = "change data feed"
_BLOCK_ROWS = 1 << 16
"""Rows encoded at a time: larger blocks need more memory for intermediate results, smaller ones more calls."""


def read_change_feed(publication: Publication, *, limit: int) -> RowChanges | None:
    """Read and encode the feed of the published as-of date, with the published version's encoding.

    Returns:
        None if it has more than `limit` rows, as after the whole partition was rewritten.

    Raises:
        ChangesUnavailable: It was vacuumed, never written, or has another schema.
        InputError: A key is null or too long.
    """
    current, source = publication.current, publication.source
    assert current is not None
    encoding = replace(publication.encoding, provenance=current.provenance)
    removed, added = ChangedRows(encoding, keep_entries=False), ChangedRows(encoding, keep_entries=True)
    start, end = current.source.delta_version + 1, source.source.delta_version
    if start > end:
        return RowChanges(removed, added, ORIGIN)
    try:
        night = (AS_OF, source.source.as_of)
        table = feed.read_feed(source.table, (start, end), encoding.columns(), night, most_rows=limit)
    except (DeltaError, OSError, pa.ArrowException) as error:  # vacuumed files are noticed only while reading
        text = " ".join(str(error).split())
        raise ChangesUnavailable(
            f"the change data feed from Delta version {start} cannot be had: {text[:300]}"
        ) from None
    if table is None:
        return None
    place = f"the change data feed of Delta versions {start} to {end}, row {{}}"

    def encode_side(rows: ChangedRows, adds: bool) -> np.ndarray:
        """Encode the rows that were added or removed; returns the moment of each."""
        some, moments = feed.select_feed_side(table, added=adds)
        for start_row in range(0, len(some), _BLOCK_ROWS):
            for batch in some.slice(start_row, _BLOCK_ROWS).combine_chunks().to_batches():
                rows.add(batch, place)
        return moments

    with ThreadPoolExecutor(num_cores()) as threads:
        moments = list(threads.map(encode_side, (removed, added), (False, True)))
    return RowChanges(removed, added, ORIGIN, None if start == end else np.concatenate(moments))
