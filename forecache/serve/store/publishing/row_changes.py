"""The rows that differ between the published as-of date and the one to be published, and the changed keys.

The change data feed has those of an as-of date that was updated. A new or rewritten as-of date has all its rows in it.
So then both partitions are compared by the hashes of their rows, each at its Delta version; only rows that differ, at
most `limit` of them, are encoded and published.
"""

import errno
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from operator import ne

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from forecache.base.errors import InputError, NotFoundError
from forecache.declare import AS_OF
from forecache.kit.delta.comparison.compare import (
    MOST_THREADS,
    NOWHERE,
    HashedPartition,
    find_differing_rows,
    match_keys,
    read_feed,
)
from forecache.kit.delta.comparison.partition import RowGroup
from forecache.kit.delta.tables import open_table
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.entries import (
    Encoder,
    EntryEncoding,
    encode_entries,
    encode_keys,
    entry_hashes,
    refuse_bad_keys,
)
from forecache.serve.store.encoding.prediction_source import NightReader
from forecache.serve.store.manifest import Provenance
from forecache.serve.store.publishing.publication import Publication
from forecache.serve.store.publishing.worker_pool import num_cores
from forecache.serve.store.read.snapshot import Snapshot
from forecache.serve.store.segment.writer import sorted_order

_LARGE = pa.large_binary()  # an array of this type can hold more than two gigabytes
_ENCODED_BYTES = 8 << 20
"""Size of the rows that are encoded at a time, so that entries with long lists fit into one array."""
_BLOCK_ROWS = 1 << 16  # rows of the feed encoded at a time: larger blocks need more memory, smaller ones more calls
_SAMPLED_PIECES = 2
_MOST_SAMPLED_PIECES = 8  # bounded, as a look-up maps up to 64 KiB of the store for every row, which counts as memory
_SAMPLED_ROWS = 128
_SAMPLED_REMOTE_ROWS = 16  # the same of a version that is not here: each may need a block of the remote
_HOPELESS = 3  # if the estimate is so many times `limit`, the comparison is given up


class ChangesUnavailable(Exception):
    """Changes cannot be read, or are too many for a small segment; the text is the reason for the full publish."""


class ChangedRows:
    """Rows that were removed, or rows that were added, encoded; `encoder` has their figures."""

    def __init__(self, encoding: EntryEncoding, *, keep_entries: bool) -> None:
        self.encoder = Encoder(encoding, 1)
        self.keys: list[pa.Array] = []
        self._entries: list[pa.Array] | None = [] if keep_entries else None
        self._hashes = [np.empty((0, 4), ">u4")]

    def add(self, batch: pa.RecordBatch, place: str, only: Provenance | None = None) -> None:
        """Encode one batch; the arguments are those of `Encoder.encode`."""
        step = max(1, _ENCODED_BYTES * len(batch) // max(1, batch.nbytes))
        for start in range(0, len(batch), step):
            keys, entries = self.encoder.encode(batch.slice(start, step), place, self.encoder.rows, only)
            self.keys.append(keys.cast(_LARGE))
            if self._entries is not None:
                self._entries.append(entries.cast(_LARGE))
            self._hashes.append(self.encoder.row_hashes)

    @cached_property
    def hashes(self) -> np.ndarray:
        return np.concatenate(self._hashes)

    def hashes_at(self, places: np.ndarray) -> np.ndarray:
        """The hashes at these places, zero for `NOWHERE`."""
        found = np.zeros((len(places), 4), ">u4")
        somewhere = places != NOWHERE
        found[somewhere] = self.hashes[places[somewhere]]
        return found

    def entries_at(self, places: np.ndarray) -> pa.Array:
        """The entries at these places, large binary, empty for `NOWHERE`."""
        assert self._entries is not None, "they were kept"
        rows = pa.array(places, mask=places == NOWHERE)
        found = pa.chunked_array(self._entries, _LARGE).take(rows)
        array = found.chunk(0) if found.num_chunks == 1 else found.combine_chunks()
        return array.fill_null(b"") if array.null_count else array


@dataclass(frozen=True)
class RowChanges:
    """The removed and added rows between the published and the new ones; a changed row is in both, old and new."""

    removed: ChangedRows
    added: ChangedRows
    origin: str  # where they were read, for messages
    moments: np.ndarray | None = None  # order of the changes, see `FeedRows`

    @property
    def rows(self) -> int:
        return self.removed.encoder.rows + self.added.encoder.rows

    @property
    def sum(self) -> int:
        """Change of the content hash; rows that were added and removed again cancel out."""
        return hashing.subtract(self.added.encoder.sum, self.removed.encoder.sum)


@dataclass(frozen=True)
class KeyChanges:
    """The keys whose entry changed, in their order: the content of a delta segment.

    `old_sum` is computed from the table's old rows, to which the published version was verified to be equal: that is
    faster than look-ups all over the base.
    """

    keys: pa.Array  # large binary [n]
    entries: pa.Array  # new ones, large binary [n]; an empty one is a tombstone
    hashes: np.ndarray  # from `hashing.row_hashes`; zero for a tombstone
    new: np.ndarray  # which keys have no published entry, bool [n]
    old_sum: int  # of the keys with their published entries

    @cached_property
    def key_list(self) -> list[bytes]:
        keys: list[bytes] = self.keys.to_pylist()
        return keys

    @property
    def sum(self) -> int:
        return hashing.subtract(hashing.hash_sum(self.hashes), self.old_sum)

    @property
    def num_added(self) -> int:
        return int(self.new.sum())

    @cached_property
    def num_removed(self) -> int:
        return int(pc.sum(pc.equal(pc.binary_length(self.entries), 0)).as_py() or 0)


def find_key_changes(changes: RowChanges) -> KeyChanges:
    removed, added = changes.removed, changes.added
    keys = pa.chunked_array([*removed.keys, *added.keys], _LARGE)
    states = match_keys(keys, removed.encoder.rows, changes.moments)
    by_key = sorted_order(states.keys).to_numpy()
    was, now = states.before[by_key], states.after[by_key]
    hashes, old_hashes = added.hashes_at(now), removed.hashes_at(was)
    changed = np.flatnonzero((hashes != old_hashes).any(axis=1))
    return KeyChanges(
        states.keys.take(pa.array(by_key[changed])),
        added.entries_at(now[changed]),
        hashes[changed],
        was[changed] == NOWHERE,
        hashing.hash_sum(old_hashes[changed]),
    )


def find_row_changes(publication: Publication, *, limit: int) -> RowChanges:
    """Find rows that differ from the published ones, by the change data feed if it is short, else by comparing.

    Raises ChangesUnavailable, or InputError if a key in the feed is null or too long.
    """
    is_same_night = publication.published.as_of == publication.source.source.as_of
    feed = read_change_feed(publication, limit=2 * limit) if is_same_night else None
    return feed or compare_partitions(publication, limit=limit)


def read_change_feed(publication: Publication, *, limit: int) -> RowChanges | None:
    """Read and encode the feed of the published as-of date, with the published version's encoding.

    It is None if it has more than `limit` rows, as after the whole partition was rewritten. Raises ChangesUnavailable
    if it was vacuumed, never written, or has another schema.
    """
    current, source = publication.published, publication.source
    encoding = replace(publication.encoding, provenance=current.provenance)
    start, end = current.source.delta_version + 1, source.source.delta_version
    night = (AS_OF, source.source.as_of)
    try:
        feed = read_feed(source.table, (start, end), encoding.columns(), night, most_rows=limit)
    except (DeltaError, OSError, pa.ArrowException) as error:  # vacuumed files are noticed only while reading
        text = " ".join(str(error).split())
        raise ChangesUnavailable(
            f"the change data feed from Delta version {start} cannot be had: {text[:300]}"
        ) from None
    if feed is None:
        return None
    removed, added = ChangedRows(encoding, keep_entries=False), ChangedRows(encoding, keep_entries=True)
    place = f"the change data feed of Delta versions {start} to {end}, row {{}}"

    def encode_side(rows: ChangedRows, side: pa.Table) -> None:
        for start_row in range(0, len(side), _BLOCK_ROWS):
            for batch in side.slice(start_row, _BLOCK_ROWS).combine_chunks().to_batches():
                rows.add(batch, place)

    with ThreadPoolExecutor(num_cores()) as threads:
        list(threads.map(encode_side, (removed, added), (feed.removed, feed.added)))
    return RowChanges(removed, added, "change data feed", feed.moments)


def compare_partitions(publication: Publication, *, limit: int) -> RowChanges:
    """Find the rows that differ between the published partition, at its Delta version, and the one to be published.

    Raises ChangesUnavailable if the published rows cannot be read any more, if more than `limit` rows differ, or if
    keys are null, too long or duplicate, which a full publish reports.
    """
    current, source = publication.published, publication.source
    try:
        table = open_table(publication.settings, source.source.table, version=current.source.delta_version)
        old_reader, new_reader = NightReader(table, current.as_of), source.reader
        old_encoding = replace(publication.encoding, provenance=current.provenance)
        old, new = _hash_partition(old_reader, old_encoding), _hash_partition(new_reader, publication.encoding)
        publication.progress("Comparing with the published version", 0.6)
        with publication.store.open_version(current) as snapshot, _threads() as threads:
            estimate = _ChangeEstimate(snapshot, new_reader, publication.encoding, limit)
            found = find_differing_rows(old, new, threads, publication.staging, most=limit, look=estimate.add)
        if found is None:
            raise ChangesUnavailable("the two dates differ by more than single rows: some are there more than once")
        if max(len(side.rows) for side in found) > limit:
            raise ChangesUnavailable(f"compaction: more than {limit:,} changed keys over a base of {old.rows:,}")
        removed = ChangedRows(old_encoding, keep_entries=False)
        added = ChangedRows(publication.encoding, keep_entries=True)
        sides = ((removed, old, old_reader), (added, new, new_reader))
        with _threads() as threads:
            for (rows, side, reader), unmatched in zip(sides, found, strict=True):
                for batch, piece in side.read_rows_at(unmatched.rows, threads):
                    rows.add(batch, "changed row {}", reader.provenance(piece))
    except (DeltaError, NotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        text = " ".join(str(error).split())
        raise ChangesUnavailable(f"as-of date {current.as_of} cannot be read as published: {text[:300]}") from None
    except InputError as error:
        raise ChangesUnavailable(error.message) from None
    return RowChanges(removed, added, "partition")


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(num_cores(), MOST_THREADS))


def _hash_partition(reader: NightReader, encoding: EntryEncoding) -> HashedPartition:
    return HashedPartition(
        reader,
        lambda piece: encoding.columns(provenance=reader.provenance(piece) is None),
        lambda batch, piece: entry_hashes(batch, encoding, reader.provenance(piece)),
    )


class _ChangeEstimate:
    """Estimates the number of changed rows from the first rows of the first new pieces: often all are changed."""

    def __init__(self, snapshot: Snapshot, reader: NightReader, encoding: EntryEncoding, limit: int) -> None:
        self._snapshot, self._reader, self._encoding, self._limit = snapshot, reader, encoding, limit
        self._rows = sum(piece.rows for piece in reader.pieces)
        self._pieces = self._sampled = self._differ = 0

    def add(self, batch: pa.RecordBatch, piece: RowGroup) -> None:
        """Compare some rows of a piece's first batch; raises ChangesUnavailable if far too many seem to differ."""
        if self._pieces >= _MOST_SAMPLED_PIECES:
            return
        some = batch.slice(0, _SAMPLED_ROWS if self._snapshot.is_whole else _SAMPLED_REMOTE_ROWS)
        keys = encode_keys(some, self._encoding.key)
        refuse_bad_keys(some, keys, self._encoding.key, "{}", 0)
        entries = encode_entries(some, self._encoding, self._reader.provenance(piece))[0].to_pylist()
        self._differ += sum(map(ne, self._snapshot.get_entries(keys.to_pylist()), entries))
        self._sampled += len(some)
        self._pieces += 1
        likely = self._differ * self._rows // self._sampled
        if self._pieces >= _SAMPLED_PIECES and likely > _HOPELESS * self._limit:
            raise ChangesUnavailable(f"compaction: about {likely:,} changed keys over a base of {self._rows:,}")
