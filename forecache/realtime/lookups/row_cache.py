"""Cache of rows of a version, in one matrix.

Requests often have the same candidates: the best sellers of a category, the stock of a store. A cached row is found by
one dictionary look-up. Nothing becomes stale, because a version never changes.
"""

from collections.abc import Callable, Sequence

import numpy as np

Read = Callable[[Sequence[bytes]], tuple[np.ndarray, np.ndarray]]

FEW = 10
"""Up to this many keys are read as fast without a cache."""
_MOST_ROWS, _MOST_BYTES = 1 << 15, 8 << 20
_WEIGHT = 1 / 64
_WORTH = 0.5
"""Hit share below which the cache costs more than it saves; applied once it has been full: an empty one only misses."""
_TRY_EVERY = 32
"""While the hit share is below that, the cache is used in one of this many calls."""


class RowCache:
    """A bounded cache before `Snapshot.matrix`; when full, it is emptied.

    Args:
        read: Reads rows, float32 [n, columns], and which keys have one, bool [n].
    """

    def __init__(self, read: Read, columns: int) -> None:
        self._read = read
        size = max(1, min(_MOST_ROWS, _MOST_BYTES // (4 * max(1, columns))))
        self._rows, self._known = np.empty((size, columns), np.float32), np.empty(size, np.bool_)
        self._places: dict[bytes, int] = {}
        self._calls, self.share = 0, 1.0
        self._was_full = False

    def matrix(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as `read` for the keys, in new arrays."""
        if len(keys) <= FEW:
            return self._read(keys)
        if self._was_full and self.share < _WORTH:
            self._calls += 1
            if self._calls % _TRY_EVERY:
                return self._read(keys)
        try:
            places = np.fromiter(map(self._places.__getitem__, keys), np.intp, len(keys))
        except KeyError:
            return self._read_missing(keys)
        self._update_share(1.0)
        return self._take_rows(places)

    def _read_missing(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        missing = [key for key in keys if key not in self._places]
        self._update_share(1 - len(missing) / len(keys))
        new = list(dict.fromkeys(missing))
        if len(self._places) + len(new) > len(self._known):
            self._places.clear()
            self._was_full = True
            new = list(dict.fromkeys(keys))
            if len(new) > len(self._known):
                return self._read(keys)
        first = len(self._places)
        last = first + len(new)
        self._rows[first:last], self._known[first:last] = self._read(new)
        self._places.update(zip(new, range(first, last), strict=True))
        return self._take_rows(np.fromiter(map(self._places.__getitem__, keys), np.intp, len(keys)))

    def _update_share(self, share: float) -> None:
        self.share += (share - self.share) * _WEIGHT

    def _take_rows(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._rows.take(places, 0), self._known.take(places)
