"""Exact top-k lists: the best items of every user, from scores that are computed a block of users at a time.

Nothing is approximated. Of a block's scores [users, items], the k-th largest maximum over groups of items is a bound
that at least k items reach; the few scores above it are sorted. Of factor models, items that cannot reach a user's
bound are not even scored: a dot product is at most the product of the two norms.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from forecache.base.errors import InputError
from forecache.plugins.recommend.filters import Filters

_EMPTY = np.iinfo(np.int64).min
_LOWEST = np.float32(np.finfo(np.float32).min)


def _groups(depth: int) -> int:
    """Number of groups of items whose maxima bound the best `depth` scores closely."""
    return int(max(256, 1 << (2 * depth - 1).bit_length()))


def padded_width(width: int, depth: int) -> int:
    """Columns of a block: `width`, rounded up to whole groups of items."""
    groups = _groups(depth)
    return -(-max(width, 1) // groups) * groups


def bound_of(block: np.ndarray, depth: int) -> np.ndarray:
    """A score that at least `depth` items of each row reach, if it has that many, float32 [rows]."""
    rows, width = block.shape
    groups = _groups(depth)
    maxima = block.reshape(rows, width // groups, groups).max(axis=1)
    if np.isnan(maxima).any():
        raise InputError("A score is not a number.", remedy="Train the model again, and look at its factors first.")
    return np.maximum(np.partition(maxima, groups - depth, axis=1)[:, groups - depth], _LOWEST)


def best_of_block(
    block: np.ndarray,
    k: int,
    filters: Filters,
    *,
    codes: np.ndarray | None = None,
    whole: Callable[[int], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of a block's columns by (score descending, code ascending).

    `codes` has the item of each column; `whole` returns a row's scores of all items, float32 [1, columns], if the block
    has not all.
    """
    depth = filters.depth(k)
    items, scores = _sort_best(block, bound_of(block, depth), depth, codes)
    if not filters.limits_groups:
        return items, scores
    items, scores, complete = filters.spread(items, scores, k)
    for row in np.flatnonzero(~complete):
        scored = block[row : row + 1] if whole is None else whole(int(row))
        everything = _sort_best(scored, np.array([_LOWEST]), scored.shape[1], codes)
        items[row], scores[row], _ = (each[0] for each in filters.spread(*everything, k))
    return items, scores


def _sort_best(block: np.ndarray, bound: np.ndarray, k: int, codes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The k best of those columns of each row that reach its bound; -1 and -inf behind the end of a shorter list."""
    rows, width = block.shape
    flat = np.flatnonzero(block >= bound[:, None])
    row, column = np.divmod(flat, width)
    counts = np.bincount(row, minlength=rows)
    starts = np.cumsum(counts) - counts
    table = np.full((rows, max(k, int(counts.max(initial=0)))), _EMPTY)
    items = column if codes is None else codes[column]
    table[row, np.arange(len(flat)) - starts[row]] = _sort_keys(block.reshape(-1)[flat], items)
    table.sort(axis=1)
    return _from_sort_keys(table[:, : -k - 1 : -1])


def _sort_keys(scores: np.ndarray, items: np.ndarray) -> np.ndarray:
    """int64 that sort as (score ascending, item descending): the order of a list, read from its end."""
    bits = (scores + np.float32(0)).view(np.int32).astype(np.int64)  # -0.0 is 0.0
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return np.asarray((bits << 32) | (0xFFFFFFFF - items.astype(np.int64)))


def _from_sort_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    empty = keys == _EMPTY
    bits = keys >> 32
    bits ^= (bits >> 31) & 0x7FFFFFFF
    scores = bits.astype(np.int32).view(np.float32)
    items = (0xFFFFFFFF - (keys & 0xFFFFFFFF)).astype(np.int32)
    scores[empty], items[empty] = -np.inf, -1
    return items, scores


USERS_AT_ONCE = 1024
"""Users of a part, which one thread works on; results come in parts."""
_ROWS = 64
_FIRST_ITEMS = 2048
_SAMPLE, _WORTHWHILE_SHARE = 256, 0.8
# Norms are compared in float64 with scores that were summed in float32.
_SLACK = 1 - 1e-4

Score = Callable[[int, int, np.ndarray], None]
"""`score(first, last, out)` writes the scores of users first to last - 1 into out, float32 [last - first, items]."""


@dataclass(frozen=True)
class TopK:
    """The lists of users `first` to `first + n - 1`."""

    first: int
    items: np.ndarray  # item codes, int32 [n, k], the best first; -1 behind the end of a shorter list
    scores: np.ndarray  # their scores, float32 [n, k], equal ones by ascending code; -inf behind the end


def top_k(
    score: Score, num_users: int, num_items: int, k: int, *, filters: Filters | None = None, threads: int = 1
) -> Iterator[TopK]:
    """The k best items of every user, in the order of users, in parts of `USERS_AT_ONCE`.

    `score` is called from several threads at once; -inf keeps an item out of a list. At most `threads + 1` parts are in
    memory, and for each thread the scores of 64 users; the libraries below should use one thread each.
    """
    _check_k(k, num_items)
    filters = filters or Filters()
    depth = filters.depth(k)

    def part(first: int, last: int) -> TopK:
        found = []
        buffer = np.empty((_ROWS, padded_width(num_items, depth)), np.float32)
        for start in range(first, last, _ROWS):
            rows = np.arange(start, min(start + _ROWS, last))
            block = buffer[: len(rows)]
            score(start, start + len(rows), block[:, :num_items])
            filters.apply(block[:, :num_items], rows)
            block[:, num_items:] = -np.inf
            found.append(best_of_block(block, k, filters))
        return TopK(first, *map(np.concatenate, zip(*found, strict=True)))

    return compute_in_order(part, num_users, threads)


def top_k_of_factors(
    user_vectors: np.ndarray, item_vectors: np.ndarray, k: int, *, filters: Filters | None = None, threads: int = 1
) -> Iterator[TopK]:
    """The k items of every user with the largest dot product of vectors [users, d] and [items, d]; as `top_k`."""
    _check_k(k, len(item_vectors))
    for name, vectors in (("user", user_vectors), ("item", item_vectors)):
        if not np.isfinite(vectors).all():
            number = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise InputError(
                f"The vector of {name} number {number} has a value that is not a number or infinite.",
                remedy="Train again with a lower learning rate or more regularization.",
            )
    ranked = _RankedItems(user_vectors, item_vectors, k, filters or Filters())
    return compute_in_order(ranked.part, len(user_vectors), threads)


class _RankedItems:
    """Items by descending norm: a user's list comes from a prefix of them."""

    def __init__(self, user_vectors: np.ndarray, item_vectors: np.ndarray, k: int, filters: Filters) -> None:
        norms = np.linalg.norm(item_vectors.astype(np.float64), axis=1)
        order = np.argsort(-norms, kind="stable")
        order = order[filters.reachable(len(order))[order]]
        self._codes = order.astype(np.int32)
        self._rising = -norms[order]
        self._depth = filters.depth(k)
        # Padded, so that every block of scores is one piece of memory.
        self._items = np.zeros((item_vectors.shape[1], padded_width(len(order), self._depth)), np.float32)
        self._items[:, : len(order)] = item_vectors[order].T
        self._users = user_vectors
        self._k = k
        self._filters = filters.renumber_items(self._codes, len(item_vectors))
        self._prunes = len(order) > 2 * _FIRST_ITEMS and self._is_worth_pruning()

    def _is_worth_pruning(self) -> bool:
        """True if a sample of users needs much less than all items, which is not so if the norms are alike."""
        sample = np.arange(len(self._users))[:: max(1, len(self._users) // _SAMPLE)]
        needed = self._num_needed_items(sample, np.empty(_ROWS * self._items.shape[1], np.float32))
        return bool(needed.sum() < _WORTHWHILE_SHARE * needed.size * len(self._codes))

    def part(self, first: int, last: int) -> TopK:
        rows = np.arange(first, last)
        items = np.full((len(rows), self._k), -1, np.int32)
        scores = np.full((len(rows), self._k), -np.inf, np.float32)
        buffer = np.empty(_ROWS * self._items.shape[1], np.float32)
        needed = self._num_needed_items(rows, buffer) if self._prunes else np.full(len(rows), len(self._codes))
        order = np.argsort(needed, kind="stable")  # users who need about as many items share a block
        for start in range(0, len(rows), _ROWS):
            some = order[start : start + _ROWS]
            users, width = rows[some], int(needed[some].max(initial=0))
            block = self._scores(users, width, buffer)
            whole = None if width >= len(self._codes) else partial(self._score_all_items, users)
            items[some], scores[some] = best_of_block(block, self._k, self._filters, codes=self._codes, whole=whole)
        return TopK(first, items, scores)

    def _score_all_items(self, users: np.ndarray, row: int) -> np.ndarray:
        """Scores of all items for one of some users: items of other groups that its list lacks may have any norm."""
        return self._scores(users[row : row + 1], len(self._codes), np.empty(self._items.shape[1], np.float32))

    def _scores(self, rows: np.ndarray, width: int, buffer: np.ndarray) -> np.ndarray:
        """Scores of the first `width` items, float32 [rows, columns]; -inf in the padding."""
        columns = padded_width(width, self._depth)
        block = buffer[: len(rows) * columns].reshape(len(rows), columns)
        np.matmul(self._users[rows], self._items[:, :columns], out=block)
        self._filters.apply(block[:, :width], rows)
        block[:, width:] = -np.inf
        return block

    def _num_needed_items(self, rows: np.ndarray, buffer: np.ndarray) -> np.ndarray:
        """For each user, the number of items of the largest norms that contain the whole list."""
        bounds = np.empty(len(rows), np.float64)
        for start in range(0, len(rows), _ROWS):
            some = slice(start, start + _ROWS)
            bounds[some] = bound_of(self._scores(rows[some], _FIRST_ITEMS, buffer), self._depth)
        norms = np.linalg.norm(self._users[rows].astype(np.float64), axis=1)
        # A bound of zero or less is reached by items of any norm.
        least = np.where(bounds > 0, bounds / np.maximum(norms, 1e-300) * _SLACK, 0)
        return np.maximum(np.searchsorted(self._rising, -least, side="right"), _FIRST_ITEMS)


def _check_k(k: int, num_items: int) -> None:
    if not 1 <= k <= num_items:
        raise InputError(
            f"A list of the {k} best items was asked for, and there are {num_items}.",
            remedy=f"Ask for 1 to {num_items}.",
        )


def compute_in_order(part: Callable[[int, int], TopK], num_users: int, threads: int) -> Iterator[TopK]:
    """Compute parts in threads, a few ahead, and yield them in the order of users."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads, thread_name_prefix="forecache-top-k") as pool:
        waiting: list[Future[Any]] = []
        for first in range(0, num_users, USERS_AT_ONCE):
            waiting.append(pool.submit(part, first, min(first + USERS_AT_ONCE, num_users)))
            if len(waiting) > threads:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
