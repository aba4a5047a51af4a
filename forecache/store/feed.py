"""The change data feed of the prediction table, from the published Delta version to the current one."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from forecache.pipeline import AS_OF
from forecache.store.candidate import Publication
from forecache.store.differences import Differences, DifferencesUnavailable, Rows
from forecache.store.encode import Encoding
from forecache.store.pool import num_cores
from forecache.store.source import BATCH_ROWS, plain

ORIGIN = "change data feed"
_REMOVES = ["delete", "update_preimage"]


def read_feed(publication: Publication, *, limit: int) -> Differences | None:
    """Read and encode the feed of the published night, with the published version's encoding.

    Returns:
        None where it has more than `limit` rows, as after the whole night was written again.

    Raises:
        DifferencesUnavailable: It was vacuumed, never written, or has another schema.
        InputError: A key is null or too long.
    """
    current, source = publication.current, publication.source
    assert current is not None
    encoding = Encoding(publication.key, publication.fields, current.provenance)
    gone, come = Rows(encoding), Rows(encoding)
    start, end = current.source.delta_version + 1, source.source.delta_version
    if start > end:
        return Differences(come, gone, ORIGIN)
    table = _load(publication, start, end, encoding, limit)
    if table is None:
        return None
    removes = pc.is_in(table["_change_type"], pa.array(_REMOVES))
    parts = [table.filter(removes).combine_chunks(), table.filter(pc.invert(removes)).combine_chunks()]

    def encode(rows: Rows, part: pa.Table) -> None:
        for batch in part.to_batches(max_chunksize=BATCH_ROWS):
            rows.add(batch, f"the change data feed of Delta versions {start} to {end}, row {{}}")

    with ThreadPoolExecutor(num_cores()) as threads:
        for _ in threads.map(encode, (gone, come), parts):
            pass
    return Differences(come, gone, ORIGIN, None if start == end else _moments(*parts))


def _moments(gone: pa.Table, come: pa.Table) -> np.ndarray:
    """By commit. Within one, a row that was deleted and inserted (a replaced partition) is there afterwards."""
    versions = [part["_commit_version"].to_numpy().astype(np.int64) for part in (gone, come)]
    return np.concatenate([2 * versions[0], 2 * versions[1] + 1])


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
            batches.append(batch)
            rows += len(batch)
            if rows > limit:
                return None
    except (DeltaError, OSError, pa.ArrowException) as error:  # what has been vacuumed shows while reading
        text = " ".join(str(error).split())
        raise DifferencesUnavailable(
            f"the change data feed from Delta version {start} cannot be had: {text[:300]}"
        ) from None
    return plain(pa.Table.from_batches(batches, feed.schema).select(columns))
