"""The vectors of all users and all items of a fitted model whose score is their dot product."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.models import Factors, Fitted
from forecache.plugins.recommend.recommender import SecondTable

_USERS_AT_ONCE = 4096


@dataclass(frozen=True)
class VectorRows:
    """A vector for each key.

    Attributes:
        keys: Users or items by code.
        vectors: float32 [n, d].
    """

    keys: pa.Array
    vectors: np.ndarray
    value_type: ClassVar[pa.DataType] = pa.list_(pa.field("element", pa.float32()))

    def parts(self, rows: int) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Keys and vectors, at most `rows` at a time."""
        size = self.vectors.shape[1]
        for first in range(0, len(self.keys), rows):
            some = np.ascontiguousarray(self.vectors[first : first + rows], np.float32)
            offsets = pa.array(np.arange(len(some) + 1, dtype=np.int32) * np.int32(size))
            lists = pa.ListArray.from_arrays(offsets, pa.array(some.reshape(-1)))
            yield self.keys.slice(first, len(some)), lists.cast(self.value_type)


def vector_rows(table: SecondTable, fitted: Fitted, interactions: Interactions) -> VectorRows:
    """The vectors of a table of users or of items; a user's vector is the one that the user's list is made from.

    Items that the model cannot rank, and users whom it cannot rank for, have a vector of zeros.
    """
    assert isinstance(fitted, Factors), type(fitted)
    if table.of == "item":
        known = fitted.known_items[:, None]
        return VectorRows(fitted.item_keys, np.where(known, fitted.item_vectors, np.float32(0)))
    history = fitted.history(interactions)
    starts = range(0, history.shape[0], _USERS_AT_ONCE)
    parts = [fitted.user_vectors(history[first : first + _USERS_AT_ONCE]) for first in starts]
    return VectorRows(interactions.user_keys, np.concatenate(parts))
