"""A model with a fallback for the users and items that it cannot rank."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.declare.checks.fields import check_fields
from forecache.plugins.recommend.interactions import Codes, Interactions
from forecache.plugins.recommend.models.base import Fitted, RecommenderModel, Scores
from forecache.plugins.recommend.models.popularity import Popularity

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class WithFallback(RecommenderModel):
    """Rank with a model, and with a fallback the users and items that it cannot rank.

    A user whom the model cannot rank for gets the fallback's scores. Items that the model cannot rank for a user follow
    behind all others in the fallback's order.

    Attributes:
        fallback: A model that needs no history, such as `Popularity`.
    """

    model: RecommenderModel
    fallback: RecommenderModel = field(default_factory=Popularity)

    def __post_init__(self) -> None:
        check_fields("`WithFallback`", self)

    def fit(self, interactions: Interactions, *, seed: int) -> "FittedWithFallback":
        model = self.model.fit(interactions, seed=seed)
        return FittedWithFallback(model.item_keys, model, self.fallback.fit(interactions, seed=seed))


@dataclass(frozen=True, eq=False)
class FittedWithFallback(Fitted):
    """Both fitted models; the history is the model's."""

    item_keys: pa.Array
    model: Fitted
    fallback: Fitted

    def weight_interactions(self, interactions: Interactions) -> "csr_matrix":
        return self.model.weight_interactions(interactions)

    def can_rank(self, history: "csr_matrix") -> NDArray[np.bool_]:
        return np.asarray(self.model.can_rank(history) | self.fallback.can_rank(history))

    def score(self, history: "csr_matrix", *, out: Scores | None = None) -> Scores:
        scores = self.model.score(history, out=out)
        scores[~self.model.can_rank(history)] = -np.inf
        rows = np.flatnonzero((scores == -np.inf).any(axis=1))
        if len(rows):
            scores[rows] = _fill_from_fallback(scores[rows], self.fallback.score(history[rows]))
        return scores

    def similar(self, items: Codes) -> Scores | None:
        return self.model.similar(items)

    def reasons(self, history: "csr_matrix", items: Codes) -> Codes:
        """Reasons of the model; none for a user whom it cannot rank for."""
        found = self.model.reasons(history, items)
        found[~self.model.can_rank(history)] = -1
        return found


def _fill_from_fallback(scores: Scores, fallback: Scores) -> Scores:
    """Replace scores of -inf by the fallback's, scaled to below the lowest score of each row."""
    missing = scores == -np.inf
    whole = missing.all(axis=1)
    lowest = np.where(missing, np.inf, scores).min(axis=1, keepdims=True)
    lowest[whole] = 0
    # A step as large as the lowest score, so that the fallback's scores stay different in float32.
    step = np.maximum(np.abs(lowest), np.float32(1))
    usable = np.isfinite(fallback)
    low = np.where(usable, fallback, np.inf).min(axis=1, keepdims=True)
    high = np.where(usable, fallback, -np.inf).max(axis=1, keepdims=True)
    share = (fallback - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    below = np.where(usable, lowest + step * (share - 2), -np.inf)
    found = np.where(missing, below, scores).astype(np.float32)
    found[whole] = fallback[whole]
    return found
