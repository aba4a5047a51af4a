"""How two states of a night differ: the rows that came and went, and the keys whose entry is not what it was."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.store import hashing
from forecache.store.build import sorted_order
from forecache.store.encode import Encoding
from forecache.store.manifest import Provenance
from forecache.store.work import Encoded

_NOWHERE = -1


class DifferencesUnavailable(Exception):
    """They cannot be had, or are too many for a small segment; the text says why, after "a full publish, because"."""


class Rows:
    """Rows that came or that went, encoded, in the order in which they were added.

    Attributes:
        found: Their count, content sum, nulls, values and provenances.
    """

    def __init__(self, encoding: Encoding) -> None:
        self.found = Encoded(encoding, 1)
        self._keys: list[pa.Array] = []
        self._entries: list[pa.Array] = []
        self._hashes: list[np.ndarray] = []

    def add(self, batch: pa.RecordBatch, place: str, only: Provenance | None = None) -> None:
        """Encode one batch; the arguments are those of `Encoded.add`."""
        keys, entries = self.found.add(batch, place, self.found.rows, only)
        self._keys.append(keys)
        self._entries.append(entries)
        self._hashes.append(self.found.row_hashes)

    @cached_property
    def keys(self) -> pa.Array:
        """Large binary [n]."""
        return _joined(self._keys)

    @cached_property
    def entries(self) -> pa.Array:
        """Large binary [n]."""
        return _joined(self._entries)

    def entries_at(self, places: np.ndarray) -> pa.Array:
        """The entries at these places, empty where a place is nowhere."""
        if not (places == _NOWHERE).any():
            return self.entries.take(pa.array(places))
        return self.entries.take(pa.array(places, mask=places == _NOWHERE)).fill_null(b"")

    def sum_at(self, places: np.ndarray) -> int:
        """Content sum of the rows at these places, those that are nowhere left out."""
        if not self._hashes:
            return 0
        return hashing.hash_sum(np.concatenate(self._hashes)[places[places != _NOWHERE]])


@dataclass(frozen=True)
class Differences:
    """What leads from the published rows to those that are to be published.

    Attributes:
        come: The rows that were not there before, later versions of changed rows included.
        gone: The rows that are not there any more, earlier versions of changed rows included.
        origin: What they were read from.
        moments: When each row of `gone`, and then of `come`, did so; None: all went before any came.
    """

    come: Rows
    gone: Rows
    origin: str
    moments: np.ndarray | None = None

    @property
    def rows(self) -> int:
        return self.come.found.rows + self.gone.found.rows

    @property
    def sum(self) -> int:
        """What they add to the content hash: rows that came and went again cancel out."""
        return hashing.subtract(self.come.found.sum, self.gone.found.sum)


@dataclass(frozen=True)
class Changes:
    """What a delta segment holds, one place a key, in the order of the keys; an empty entry means: no such row.

    Attributes:
        keys: Large binary [n].
        entries: Of the version in the making; an empty one is a tombstone.
        old: Of the published version. What is published was verified to be what the table held, so it is taken from
            the differences, which is faster than looking it up all over the base.
        entries_sum: Content sum of the keys with their entries, as they were encoded.
        old_sum: Content sum of the keys with their old entries.
    """

    keys: pa.Array
    entries: pa.Array
    old: pa.Array
    entries_sum: int
    old_sum: int

    @cached_property
    def key_list(self) -> list[bytes]:
        keys: list[bytes] = self.keys.to_pylist()
        return keys

    @cached_property
    def removed(self) -> int:
        return _num_empty(self.entries)

    @cached_property
    def added(self) -> int:
        return _num_empty(self.old)

    @property
    def new_keys(self) -> list[bytes]:
        """The keys that have no published entry."""
        found: list[bytes] = self.keys.filter(_is_empty(self.old)).to_pylist() if self.added else []
        return found


def content_changes(differences: Differences) -> Changes:
    """The keys whose entry is not what it was.

    The first that is said of a key tells what was there before all of it, the last what is there after.
    """
    gone, come = differences.gone, differences.come
    together = _joined([gone.keys, come.keys]).dictionary_encode()
    order = _in_time(len(together), differences.moments)
    codes = together.indices.to_numpy()[order]
    first, last = np.empty((2, len(together.dictionary)), np.int64)
    # Where a code is there more than once, numpy keeps what it assigned last.
    first[codes[::-1]], last[codes] = order[::-1], order
    by_key = sorted_order(together.dictionary).to_numpy()
    first, last = first[by_key], last[by_key]
    was = np.where(first < len(gone.keys), first, _NOWHERE)
    now = np.where(last >= len(gone.keys), last - len(gone.keys), _NOWHERE)
    old, entries = gone.entries_at(was), come.entries_at(now)
    differ = pc.not_equal(old, entries)
    chosen = differ.to_numpy(zero_copy_only=False)
    return Changes(
        together.dictionary.take(pa.array(by_key)).filter(differ),
        entries.filter(differ),
        old.filter(differ),
        come.sum_at(now[chosen]),
        gone.sum_at(was[chosen]),
    )


def _in_time(count: int, moments: np.ndarray | None) -> np.ndarray:
    """Positions that put rows in the order of their moments, those of the same moment left as they are."""
    return np.arange(count) if moments is None else np.argsort(moments, kind="stable")


def _joined(arrays: Iterable[pa.Array]) -> pa.Array:
    """One array, of a type that holds more than two gigabytes."""
    large = [array.cast(pa.large_binary()) for array in arrays if len(array)]
    return large[0] if len(large) == 1 else pa.chunked_array(large, pa.large_binary()).combine_chunks()


def _is_empty(entries: pa.Array) -> pa.Array:
    return pc.equal(pc.binary_length(entries), 0)


def _num_empty(entries: pa.Array) -> int:
    return int(pc.sum(_is_empty(entries)).as_py() or 0)
