"""Ranks a user's own items by frequency and recency."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from forecache.declare.checks.fields import check_fields, check_least
from forecache.plugins.recommend.interactions import Codes, Interactions
from forecache.plugins.recommend.models.base import (
    Fitted,
    RecommenderModel,
    Scores,
    check_not_empty,
    decay_weights,
    own_items,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class RepeatPurchase(RecommenderModel):
    """Rank a user's own items by how often they were bought, each purchase counting less the older it is.

    It cannot rank items that a user never had: `WithFallback` fills them in.

    Attributes:
        half_life_days: Days after which a purchase counts half; None: all count the same.
    """

    half_life_days: float | None = 60.0

    def __post_init__(self) -> None:
        check_fields("`RepeatPurchase`", self)
        check_least("`RepeatPurchase`", self, 0, "half_life_days", above=True)

    def fit(self, interactions: Interactions, *, seed: int = 0) -> "FittedRepeatPurchase":
        check_not_empty(interactions, "`RepeatPurchase`")
        return FittedRepeatPurchase(interactions.item_keys, self.half_life_days)


@dataclass(frozen=True, eq=False)
class FittedRepeatPurchase(Fitted):
    """Has no learned parameters: scores depend on the history alone."""

    item_keys: pa.Array
    half_life_days: float | None

    def weight_interactions(self, interactions: Interactions) -> "csr_matrix":
        """Decayed counts; as of another day all differ by the same factor, so the order stays."""
        if not len(interactions):
            return interactions.matrix()
        return interactions.matrix(decay_weights(interactions, self.half_life_days))

    def score(self, history: "csr_matrix", *, out: Scores | None = None) -> Scores:
        scores = np.empty((history.shape[0], self.num_items), np.float32) if out is None else out
        scores[:] = -np.inf
        rows = np.repeat(np.arange(history.shape[0]), np.diff(history.indptr))
        scores[rows, history.indices] = history.data
        return scores

    def reasons(self, history: "csr_matrix", items: Codes) -> Codes:
        return own_items(history, items)
