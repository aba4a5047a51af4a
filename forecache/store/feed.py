"""The change data feed of the prediction table, from the published Delta version to the current one."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from forecache.pipeline import AS_OF
from forecache.store import hashing
from forecache.store.candidate import Publication
from forecache.store.encode import Encoding
from forecache.store.source import plain
from forecache.store.work import Encoded

_REMOVES = ["delete", "update_preimage"]


class FeedUnavailable(Exception):
    """The feed cannot be had; the text says why, as the rest of "a full publish, because ..."."""


@dataclass(frozen=True)
class Feed:
    """What the feed says about the published night.

    Attributes:
        final: For each key of the feed its last entry, empty where it was deleted last.
        come: The inserted rows of all commits, later versions of updated rows included.
        gone: The deleted rows of all commits, earlier versions of updated rows included.
    """

    final: dict[bytes, bytes]
    come: Encoded
    gone: Encoded

    @property
    def rows(self) -> int:
        return self.come.rows + self.gone.rows

    @property
    def sum(self) -> int:
        """What the feed adds to the content hash: rows that came and went again cancel out."""
        return hashing.subtract(self.come.sum, self.gone.sum)


def read_feed(publication: Publication, *, limit: int) -> Feed:
    """Read and encode the feed of the published night, with the published version's encoding.

    Raises:
        FeedUnavailable: Vacuumed, never written, of another schema, or longer than `limit` rows.
        InputError: A key is null or too long.
    """
    current, source = publication.current, publication.source
    assert current is not None
    encoding = Encoding(publication.key, publication.fields, current.provenance)
    start, end = current.source.delta_version + 1, source.source.delta_version
    if start > end:
        return Feed({}, Encoded(encoding, 1), Encoded(encoding, 1))
    table = _load(publication, start, end, encoding)
    if len(table) > limit:
        raise FeedUnavailable(f"the change data feed has {len(table):,} rows, more than a small segment is for")
    table = table.sort_by("_commit_version").combine_chunks()
    removes = pc.is_in(table["_change_type"], pa.array(_REMOVES))
    gone, come = Encoded(encoding, 1), Encoded(encoding, 1)
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
            _, entries = sink.add(batch, f"change data feed of Delta version {version}, row {{}}", 0)
            final.update(
                dict.fromkeys(sink.key_list, b"")
                if sink is gone
                else zip(sink.key_list, entries.to_pylist(), strict=True)
            )
    return Feed(final, come, gone)


def _load(publication: Publication, start: int, end: int, encoding: Encoding) -> pa.Table:
    columns = [*encoding.columns, AS_OF, "_change_type", "_commit_version"]
    try:
        reader = publication.source.table.load_cdf(
            starting_version=start,
            ending_version=end,
            columns=columns,
            predicate=f"{AS_OF} = '{publication.source.source.as_of}'",
        )
        table = pa.table(reader.read_all())
    except Exception as error:
        # What has been vacuumed shows while reading, as a bare Exception out of the Arrow bridge.
        if not isinstance(error, (DeltaError, OSError)) and type(error) is not Exception:
            raise
        text = " ".join(str(error).split())
        raise FeedUnavailable(f"the change data feed from Delta version {start} cannot be had: {text[:300]}") from None
    return plain(table.select(columns))
