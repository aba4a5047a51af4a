"""Lists of similar items for every item: by the model where it has such, else by the users who took both."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from forecache.recommend.filters import Filters
from forecache.recommend.interactions import Interactions
from forecache.recommend.lists import as_lists
from forecache.recommend.models import Fitted
from forecache.recommend.models.base import without_itself
from forecache.recommend.top_k import TopK, top_k

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class ItemLists:
    """The lists of all items, made while they are read.

    Attributes:
        keys: The items by code.
        taken: Which user took which item, CSR [items, users] of ones.
    """

    keys: pa.Array
    fitted: Fitted
    taken: "csr_matrix"
    found: Iterator[TopK]

    def parts(self, rows: int) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Keys and lists of items, some at a time: list of (item, score float32, reason).

        On a list are only items with a score above 0; the reason says how many users took both.
        """
        for top in self.found:
            items = np.where(top.scores > 0, top.items, -1)
            codes = np.arange(top.first, top.first + len(items))
            both = together(self.taken, codes)
            counts = np.asarray(both[np.arange(len(codes))[:, None], np.maximum(items, 0)].todense())[items >= 0]
            why = pa.array([f"{int(count):,} took both" if count else None for count in counts], pa.string())
            yield self.keys.slice(top.first, len(items)), as_lists(self.keys, items, top.scores, why)


def item_lists_of(fitted: Fitted, interactions: Interactions, k: int, *, filters: Filters | None = None) -> ItemLists:
    """The k most similar items, or fewer, of every item of a fitted model.

    A model without similarities of its own has the cosine of the items' users: the share of those who took both.

    Args:
        filters: Items that may be on no list are not on these either; what is about users is left aside.
    """
    taken = interactions.recoded(item_keys=fitted.item_keys).matrix()
    taken.eliminate_zeros()
    taken.data[:] = 1
    taken = taken.T.tocsr()
    counts = np.maximum(np.diff(taken.indptr), 1).astype(np.float32)
    own = fitted.similar(np.zeros(0, np.int32)) is not None

    def score(first: int, last: int, out: np.ndarray) -> None:
        codes = np.arange(first, last, dtype=np.int32)
        if own:
            out[:] = fitted.similar(codes)
            return
        out[:] = together(taken, codes).toarray() / np.sqrt(counts[first:last, None] * counts)
        without_itself(out, codes)

    available = None if filters is None else filters.available
    found = top_k(
        score,
        fitted.num_items,
        fitted.num_items,
        min(k, fitted.num_items),
        filters=Filters(available=available),
        threads=len(os.sched_getaffinity(0)),
    )
    return ItemLists(fitted.item_keys, fitted, taken, found)


def together(taken: "csr_matrix", codes: np.ndarray) -> "csr_matrix":
    """How many users took both, CSR float32 [len(codes), items]."""
    return taken[codes].dot(taken.T).tocsr()
