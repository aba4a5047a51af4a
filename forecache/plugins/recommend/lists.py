"""Lists of items for every user of a fitted model, as Arrow."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from forecache.plugins.recommend.filters import Availability, Filters
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.models import Factors, Fitted
from forecache.plugins.recommend.models.popularity import FittedWithFallback
from forecache.plugins.recommend.recommender import Recommender, SecondTable
from forecache.plugins.recommend.top_k import TopK, compute_in_order, top_k, top_k_of_factors

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


_USERS_AT_ONCE = 4096
_NONE = np.float32(-np.inf)

STAGE = "recommend"
"""Name of the stage in the ledger."""


@dataclass(frozen=True)
class Lists:
    keys: pa.Array  # the users by code
    history: "csr_matrix"
    fitted: Fitted
    found: Iterator[TopK]

    @property
    def value_type(self) -> pa.DataType:
        return list_type(self.fitted.item_keys)

    def parts(self, rows: int) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Keys and lists of users, at least `rows` at a time: list of (item, score float32, reason)."""
        waiting: list[pa.Array] = []
        first = 0
        for top in self.found:
            last = top.first + len(top.items)
            reasons = self.fitted.reasons(self.history[top.first : last], top.items)[top.items >= 0]
            keys = self.fitted.item_keys
            why = keys.take(pa.array(reasons, mask=reasons < 0)).cast(pa.string())
            waiting.append(as_lists(keys, top.items, top.scores, why))
            if last - first >= rows or last == len(self.keys):
                yield self.keys.slice(first, last - first), pa.concat_arrays(waiting)
                waiting, first = [], last


def list_type(item_keys: pa.Array) -> pa.DataType:
    """Arrow type of lists of (item, score, reason); items have their type in the interactions."""
    item = pa.struct([("item", item_keys.type), ("score", pa.float32()), ("reason", pa.string())])
    return pa.list_(pa.field("element", item))


def as_lists(keys: pa.Array, items: np.ndarray, scores: np.ndarray, reasons: pa.Array) -> pa.Array:
    """Lists of (item, score float32, reason string) from codes [n, k], -1 for none, and reasons of the existing."""
    there = items >= 0
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    places = pa.StructArray.from_arrays(
        [keys.take(pa.array(items[there])), pa.array(scores[there]), reasons], names=["item", "score", "reason"]
    )
    return pa.ListArray.from_arrays(pa.array(offsets), places).cast(pa.list_(pa.field("element", places.type)))


def lists_of(
    recommender: Recommender,
    fitted: Fitted,
    interactions: Interactions,
    night: date,
    groups: Mapping[Any, Any] | None,
    available: Availability | None = None,
) -> Lists:
    """Rank for every user of the interactions; an item that is no key of `groups` has no group."""
    known = interactions.recode(item_keys=fitted.item_keys)
    history = fitted.weight_interactions(known)
    filters = filters_of(recommender, fitted, known, night, groups, available)
    return Lists(interactions.user_keys, history, fitted, rank(fitted, history, recommender.k, filters))


def rank(fitted: Fitted, history: "csr_matrix", k: int, filters: Filters) -> Iterator[TopK]:
    """The k best items, or all if there are fewer, for each row of a history; none for whom the model cannot rank."""
    for part in _rank_parts(fitted, history, k, filters):
        users = fitted.can_rank(history[part.first : part.first + len(part.items)])[:, None]
        yield replace(part, items=np.where(users, part.items, np.int32(-1)), scores=np.where(users, part.scores, _NONE))


def _rank_parts(fitted: Fitted, history: "csr_matrix", k: int, filters: Filters) -> Iterator[TopK]:
    threads, k = len(os.sched_getaffinity(0)), min(k, fitted.num_items)
    if isinstance(fitted, FittedWithFallback) and isinstance(fitted.model, Factors):
        return map(partial(_complete_lists, fitted, history, filters), _rank_parts(fitted.model, history, k, filters))
    if isinstance(fitted, Factors):
        # Without this filter, dot products would also rank items that training never saw.
        known = fitted.known_items if filters.available is None else filters.available & fitted.known_items
        filters = replace(filters, available=known)
        return top_k_of_factors(
            _user_vectors(fitted, history), fitted.item_vectors, k, filters=filters, threads=threads
        )

    def score(first: int, last: int, out: np.ndarray) -> None:
        fitted.score(history[first:last], out=out)

    return top_k(score, history.shape[0], fitted.num_items, k, filters=filters, threads=threads)


def _complete_lists(fitted: FittedWithFallback, history: "csr_matrix", filters: Filters, part: TopK) -> TopK:
    """Make the lists that are too short in a part again, from all scores, those of the fallback included."""
    rows = slice(part.first, part.first + len(part.items))
    lacking = np.flatnonzero(~fitted.model.can_rank(history[rows]) | (part.items[:, -1] < 0))
    if not len(lacking):
        return part
    own = history[part.first + lacking]

    def score(first: int, last: int, out: np.ndarray) -> None:
        fitted.score(own[first:last], out=out)

    items, scores = part.items.copy(), part.scores.copy()
    k = items.shape[1]
    for found in top_k(score, len(lacking), fitted.num_items, k, filters=filters.select_users(part.first + lacking)):
        some = lacking[found.first : found.first + len(found.items)]
        items[some], scores[some] = found.items, found.scores
    return replace(part, items=items, scores=scores)


def _user_vectors(fitted: Factors, history: "csr_matrix") -> np.ndarray:
    starts = range(0, history.shape[0], _USERS_AT_ONCE)
    return np.concatenate([fitted.user_vectors(history[first : first + _USERS_AT_ONCE]) for first in starts])


def filters_of(
    recommender: Recommender,
    fitted: Fitted,
    known: Interactions,
    night: date,
    groups: Mapping[Any, Any] | None,
    available: Availability | None = None,
) -> Filters:
    """The filters that the declaration has for an as-of date; `known` are interactions in the model's item codes."""
    seen = excluded_items(recommender, known, night)
    codes = None
    if groups is not None:
        numbers = {name: number for number, name in enumerate(dict.fromkeys(groups.values()))}
        # An item without a group gets one of its own.
        items = enumerate(fitted.item_keys.to_pylist(), start=len(numbers))
        codes = np.array([numbers[groups[key]] if key in groups else own for own, key in items])
    there = Filters() if available is None else available.filters(fitted.item_keys, known.user_keys)
    return replace(there, seen=seen, group_of_item=codes, most_of_group=recommender.most_of_group)


def excluded_items(recommender: Recommender, known: Interactions, night: date) -> "csr_matrix | None":
    """Items that users took within the declared days up to an as-of date, CSR [users, items]; None: none are."""
    if recommender.exclude_days is None:
        return known.matrix()
    if not recommender.exclude_days:
        return None
    return known.select_between(night - timedelta(days=recommender.exclude_days - 1), night).matrix()


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
    return VectorRows(interactions.user_keys, _user_vectors(fitted, fitted.history(interactions)))
