"""Ranks items by popularity: the same list for everybody."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.declare.checks.fields import check_fields, check_least
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.models.base import Fitted, RecommenderModel, Scores, check_not_empty, decay_weights

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Popularity(RecommenderModel):
    """Rank items by the sum of their interactions' weights.

    Attributes:
        half_life_days: Days after which an interaction counts half; None: all count the same.
    """

    half_life_days: float | None = None

    def __post_init__(self) -> None:
        check_fields("`Popularity`", self)
        check_least("`Popularity`", self, 0, "half_life_days", above=True)

    def fit(self, interactions: Interactions, *, seed: int = 0) -> "FittedPopularity":
        check_not_empty(interactions, "`Popularity`")
        weights = interactions.weights * decay_weights(interactions, self.half_life_days)
        totals = np.bincount(interactions.items, weights, minlength=interactions.num_items)
        return FittedPopularity(interactions.item_keys, totals.astype(np.float32))


@dataclass(frozen=True, eq=False)
class FittedPopularity(Fitted):
    """Attributes:
    totals: The sum of each item's weights, float32 [items]; it is the score.
    """

    item_keys: pa.Array
    totals: Scores

    def can_rank(self, history: "csr_matrix") -> NDArray[np.bool_]:
        return np.ones(history.shape[0], bool)

    def score(self, history: "csr_matrix", *, out: Scores | None = None) -> Scores:
        scores = np.empty((history.shape[0], self.num_items), np.float32) if out is None else out
        scores[:] = self.totals
        return scores
