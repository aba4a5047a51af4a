"""Changes between two states of an as-of date: removed and added rows, and the changed keys that follow from them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.kit.delta.comparison.compare import first_and_last_positions
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.encoder import Encoder
from forecache.serve.store.encoding.entries import EntryEncoding
from forecache.serve.store.manifest import Provenance
from forecache.serve.store.segment.writer import sorted_order

_NOWHERE = -1
_LARGE = pa.large_binary()
"""An array of this type can hold more than two gigabytes."""
_ENCODED_BYTES = 8 << 20
"""Size of the rows that are encoded at a time, so that entries with long lists fit into one array."""


class ChangesUnavailable(Exception):
    """Changes cannot be read, or are too many for a small segment; the text is the reason for the full publish."""


class ChangedRows:
    """Rows that were removed, or rows that were added, encoded.

    Attributes:
        encoder: Has their count, content sum, nulls, values and provenances.
        keys: Keys of every batch, large binary.
    """

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
        """Hashes of all rows, as `hashing.row_hashes` returns them."""
        return np.concatenate(self._hashes)

    def hashes_at(self, places: np.ndarray) -> np.ndarray:
        """The hashes at these places, zero for `_NOWHERE`."""
        found = np.zeros((len(places), 4), ">u4")
        somewhere = places != _NOWHERE
        found[somewhere] = self.hashes[places[somewhere]]
        return found

    def entries_at(self, places: np.ndarray) -> pa.Array:
        """The entries at these places, large binary, empty for `_NOWHERE`."""
        assert self._entries is not None, "they were kept"
        rows = pa.array(places, mask=places == _NOWHERE)
        found = pa.chunked_array(self._entries, _LARGE).take(rows)
        array = found.chunk(0) if found.num_chunks == 1 else found.combine_chunks()
        return array.fill_null(b"") if array.null_count else array


@dataclass(frozen=True)
class RowChanges:
    """The removed and added rows between the published rows and those to be published.

    Attributes:
        removed: Rows that do not exist any more, including earlier versions of changed rows.
        added: Rows that did not exist before, including later versions of changed rows.
        origin: The source that they were read from, for messages.
        moments: Order of the changes: of each row of `removed`, then of each of `added`; None: all were removed before
            any was added.
    """

    removed: ChangedRows
    added: ChangedRows
    origin: str
    moments: np.ndarray | None = None

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

    Attributes:
        keys: Large binary [n].
        entries: New entries, large binary [n]; an empty one is a tombstone.
        hashes: Of the keys with these entries, as `hashing.row_hashes` returns them; zero for a tombstone.
        new: Which keys have no published entry, bool [n].
        old_sum: Content sum of the keys with their published entries, computed from the table's old rows, to which the
            published version was verified to be equal: faster than look-ups all over the base.
    """

    keys: pa.Array
    entries: pa.Array
    hashes: np.ndarray
    new: np.ndarray
    old_sum: int

    @cached_property
    def key_list(self) -> list[bytes]:
        keys: list[bytes] = self.keys.to_pylist()
        return keys

    @property
    def sum(self) -> int:
        """Change of the content hash."""
        return hashing.subtract(hashing.hash_sum(self.hashes), self.old_sum)

    @property
    def num_added(self) -> int:
        return int(self.new.sum())

    @cached_property
    def num_removed(self) -> int:
        return int(pc.sum(pc.equal(pc.binary_length(self.entries), 0)).as_py() or 0)


def find_key_changes(changes: RowChanges) -> KeyChanges:
    """Find keys whose encoded value changed.

    The first change of a key's rows has the state before all of them, the last one the state after.
    """
    removed, added = changes.removed, changes.added
    keys, first, last = first_and_last_positions(
        pa.chunked_array([*removed.keys, *added.keys], _LARGE), changes.moments
    )
    by_key = sorted_order(keys).to_numpy()
    first, last = first[by_key], last[by_key]
    was = np.where(first < removed.encoder.rows, first, _NOWHERE)
    now = np.where(last >= removed.encoder.rows, last - removed.encoder.rows, _NOWHERE)
    hashes, old_hashes = added.hashes_at(now), removed.hashes_at(was)
    changed = np.flatnonzero((hashes != old_hashes).any(axis=1))
    return KeyChanges(
        keys.take(pa.array(by_key[changed])),
        added.entries_at(now[changed]),
        hashes[changed],
        was[changed] == _NOWHERE,
        hashing.hash_sum(old_hashes[changed]),
    )
