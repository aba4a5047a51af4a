"""Ranks a user's own items by frequency and recency on several time scales, and by popularity."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.declare.checks.fields import check_fields, check_least, check_value
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
class Habits(RecommenderModel):
    """Rank a user's own items by log(sum of decayed purchases) + popularity * log(1 + purchases by everybody).

    A short and a long half-life together distinguish items that are bought often now from those bought regularly. It
    cannot rank items that a user never had: `WithFallback` fills them in.

    Attributes:
        half_lives_days: Half-lives of the decays whose counts are added.
        popularity: Weight of an item's popularity: items that everybody buys often are sooner bought again.
    """

    half_lives_days: tuple[float, ...] = (60.0, 240.0)
    popularity: float = 0.1

    def __post_init__(self) -> None:
        check_fields("`Habits`", self)
        rule = "Give at least one, each more than 0."
        lives = self.half_lives_days
        check_value("`Habits`", "half_lives_days", lives, bool(lives) and all(life > 0 for life in lives), rule)
        check_least("`Habits`", self, 0, "popularity")

    def fit(self, interactions: Interactions, *, seed: int = 0) -> "FittedHabits":
        check_not_empty(interactions, "`Habits`")
        totals = np.bincount(interactions.items, interactions.weights, minlength=interactions.num_items)
        prior = np.float32(self.popularity) * np.log1p(totals).astype(np.float32)
        return FittedHabits(interactions.item_keys, prior, np.array(self.half_lives_days, np.float64))


@dataclass(frozen=True, eq=False)
class FittedHabits(Fitted):
    """Attributes:
    prior: The amount that popularity adds to an item's score, float32 [items].
    """

    item_keys: pa.Array
    prior: Scores
    half_lives_days: NDArray[np.float64]

    def weight_interactions(self, interactions: Interactions) -> "csr_matrix":
        """Sums of the decayed counts, CSR [users, items]; as of another day the order may change a little."""
        if not len(interactions):
            return interactions.matrix()
        decays = np.stack([decay_weights(interactions, life) for life in self.half_lives_days])
        return interactions.matrix(decays.sum(axis=0))

    def score(self, history: "csr_matrix", *, out: Scores | None = None) -> Scores:
        scores = np.empty((history.shape[0], self.num_items), np.float32) if out is None else out
        scores[:] = -np.inf
        rows = np.repeat(np.arange(history.shape[0]), np.diff(history.indptr))
        scores[rows, history.indices] = np.log(history.data) + self.prior[history.indices]
        return scores

    def reasons(self, history: "csr_matrix", items: Codes) -> Codes:
        return own_items(history, items)
