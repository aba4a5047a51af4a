"""Lists of similar items for every item: by the model's similarities if it has any, else by users who took both."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from forecache.plugins.recommend.filters import Filters
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.lists import as_lists, list_type
from forecache.plugins.recommend.models import Factors, Fitted
from forecache.plugins.recommend.recommender import SecondTable
from forecache.plugins.recommend.top_k import TopK, compute_in_order, top_k

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class ItemLists:
    """The lists of all items, made while they are read."""

    keys: pa.Array  # the items by code
    fitted: Fitted
    taken: "csr_matrix"  # ones for the users who took an item, CSR [items, users]
    found: Iterator[TopK]

    @property
    def value_type(self) -> pa.DataType:
        return list_type(self.keys)

    def parts(self, rows: int) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Keys and lists of items, some at a time: list of (item, score float32, reason).

        A list has only items with a score above 0; the reason is the number of users who took both.
        """
        for top in self.found:
            items = np.where(top.scores > 0, top.items, -1)
            there = items >= 0
            codes = np.broadcast_to(top.first + np.arange(len(items))[:, None], items.shape)
            both = self.taken[codes[there]].multiply(self.taken[items[there]]).sum(axis=1)
            counts = np.asarray(both, np.int64).ravel()
            why = pa.array([f"{count:,} took both" if count else None for count in counts.tolist()], pa.string())
            yield self.keys.slice(top.first, len(items)), as_lists(self.keys, items, top.scores, why)


def item_lists_of(fitted: Fitted, interactions: Interactions, k: int, *, filters: Filters | None = None) -> ItemLists:
    """The k most similar items of every item that are available at all, by the model or the cosine of their users."""
    taken = interactions.recode(item_keys=fitted.item_keys).matrix()
    taken.eliminate_zeros()
    taken.data[:] = 1
    taken = taken.T.tocsr()
    available = None if filters is None else filters.available
    k = min(k, fitted.num_items)
    if fitted.similar(np.zeros(0, np.int32)) is None:
        return ItemLists(fitted.item_keys, fitted, taken, _rank_by_shared_users(taken, k, available))

    def score(first: int, last: int, out: np.ndarray) -> None:
        out[:] = fitted.similar(np.arange(first, last, dtype=np.int32))

    num, threads = fitted.num_items, len(os.sched_getaffinity(0))
    found = top_k(score, num, num, k, filters=Filters(available=available), threads=threads)
    return ItemLists(fitted.item_keys, fitted, taken, found)


def _rank_by_shared_users(taken: "csr_matrix", k: int, available: np.ndarray | None) -> Iterator[TopK]:
    """Rank by the cosine of the items' users; only pairs that some user took both of are computed."""
    norms = np.sqrt(np.maximum(np.diff(taken.indptr), 1)).astype(np.float32)
    weights = 1 / norms
    if available is not None:
        weights = np.where(available, weights, np.float32(0))
    users = taken.T.tocsr()

    def part(first: int, last: int) -> TopK:
        both = taken[first:last].dot(users)
        both.data *= weights[both.indices]
        items = np.full((last - first, k), -1, np.int32)
        scores = np.full((last - first, k), -np.inf, np.float32)
        for row in range(last - first):
            some = slice(both.indptr[row], both.indptr[row + 1])
            codes, values = both.indices[some], both.data[some]
            values[codes == first + row] = 0
            near = np.flatnonzero(values >= _bound(values, k))
            # Codes decide between equal values at the end of the list.
            best = near[np.lexsort((codes[near], -values[near]))[:k]]
            items[row, : len(best)], scores[row, : len(best)] = codes[best], values[best]
        return TopK(first, items, scores / norms[first:last, None])

    return compute_in_order(part, taken.shape[0], len(os.sched_getaffinity(0)))


def _bound(values: np.ndarray, k: int) -> np.float32:
    """A value that at least k of the values reach, and few more; -inf if there are at most k."""
    groups = 8 * k
    if len(values) < 2 * groups:
        return np.float32(-np.inf) if len(values) <= k else np.partition(values, -k)[-k]
    # At least k values reach the k-th largest maximum of groups.
    largest = values[: len(values) // groups * groups].reshape(-1, groups).max(axis=0)
    return np.partition(largest, -k)[-k]


_USERS_AT_ONCE = 4096


@dataclass(frozen=True)
class VectorRows:
    keys: pa.Array  # users or items by code
    vectors: np.ndarray  # float32 [n, d]
    value_type: ClassVar[pa.DataType] = pa.list_(pa.field("element", pa.float32()))

    def parts(self, rows: int) -> Iterator[tuple[pa.Array, pa.Array]]:
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
