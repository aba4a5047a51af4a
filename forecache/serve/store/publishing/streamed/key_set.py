"""A set of keys in a file that worker processes map: the keys whose rows the stream replaces."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.serve.store.encoding.encoder import short_lists
from forecache.serve.store.segment.index import key_hashes

_ROWS = pa.schema([("hash", pa.uint64()), ("key", pa.binary())])


class KeySet:
    """A set of keys by hash; keys with equal hashes are compared."""

    def __init__(self, hashes: np.ndarray, keys: pa.Array) -> None:
        """`hashes` are sorted, uint64 [n], and `keys` (binary) in their order."""
        self._hashes, self._keys = hashes, keys
        self._collide = bool((hashes[1:] == hashes[:-1]).any())

    def __len__(self) -> int:
        return len(self._keys)

    def mask(self, keys: pa.Array) -> np.ndarray:
        """Mask of the keys (binary) that are in the set, bool [n]."""
        if len(self._keys) == 0 or len(keys) == 0:
            return np.zeros(len(keys), bool)
        if self._collide:
            return np.asarray(pc.is_in(keys, self._keys))
        hashes = _hashes_of(keys)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        found: np.ndarray = self._hashes[places] == hashes
        there = np.flatnonzero(found)
        equal = pc.equal(keys.take(pa.array(there)), self._keys.take(pa.array(places[there])))
        found[there] = np.asarray(equal)
        return found

    def write(self, path: Path) -> None:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _ROWS) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays([pa.array(self._hashes), self._keys], schema=_ROWS))


def make_key_set(keys: pa.Array) -> KeySet:
    """The set of some distinct keys (binary)."""
    hashes = _hashes_of(keys)
    order = np.argsort(hashes, kind="stable")
    return KeySet(hashes[order], keys.take(pa.array(order)))


def read_key_set(path: Path) -> KeySet:
    """The set that `KeySet.write` wrote, mapped."""
    (batch,) = (pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0),)
    return KeySet(batch.column(0).to_numpy(), batch.column(1))


def _hashes_of(keys: pa.Array) -> np.ndarray:
    return np.concatenate([key_hashes(some) for some in short_lists(keys)])
