"""Exact selection of the largest scores of a block of users: a bound that enough items reach, then a sort above it."""

from collections.abc import Callable

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

    Args:
        codes: The item of each column; None: its number.
        whole: Returns a row's scores of all items, float32 [1, columns], if the block does not have all of them.
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
