"""The change data feed of the prediction table, from the published Delta version to the current one."""

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from forecache.pipeline import AS_OF
from forecache.store.candidate import Publication
from forecache.store.differences import Differences, DifferencesUnavailable
from forecache.store.encode import Encoding
from forecache.store.source import plain
from forecache.store.work import Encoded

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
    start, end = current.source.delta_version + 1, source.source.delta_version
    if start > end:
        return Differences({}, {}, Encoded(encoding, 1), Encoded(encoding, 1), ORIGIN)
    table = _load(publication, start, end, encoding, limit)
    if table is None:
        return None
    table = table.sort_by("_commit_version").combine_chunks()
    removes = pc.is_in(table["_change_type"], pa.array(_REMOVES))
    gone, come = Encoded(encoding, 1), Encoded(encoding, 1)
    was: dict[bytes, bytes] = {}
    final: dict[bytes, bytes] = {}
    # Within one commit a row that was deleted and inserted (a replaced partition) is there afterwards, so each
    # commit's inserts are applied after its deletes.
    for version in pc.unique(table["_commit_version"]).to_pylist():
        here = pc.equal(table["_commit_version"], version)
        for sink, mask in ((gone, removes), (come, pc.invert(removes))):
            part = table.filter(pc.and_(here, mask))
            if len(part) == 0:
                continue
            batch = part.combine_chunks().to_batches()[0]
            _, column = sink.add(batch, f"change data feed of Delta version {version}, row {{}}")
            entries = dict(zip(sink.key_list, column.to_pylist(), strict=True))
            left = dict.fromkeys(entries, b"")
            # The first that the feed says of a key tells what was there before all of it.
            was = {**(entries if sink is gone else left), **was}
            final.update(left if sink is gone else entries)
    return Differences(was, final, come, gone, ORIGIN)


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
