"""Models that count: popularity, what a user buys again, and a fallback for what a model cannot rank."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.declare.checks import check_fields, check_least, check_value
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
    item_keys: pa.Array
    totals: Scores  # the sum of each item's weights, float32 [items]; it is the score

    def can_rank(self, history: "csr_matrix") -> NDArray[np.bool_]:
        return np.ones(history.shape[0], bool)

    def score(self, history: "csr_matrix", *, out: Scores | None = None) -> Scores:
        scores = np.empty((history.shape[0], self.num_items), np.float32) if out is None else out
        scores[:] = self.totals
        return scores


class _FittedOwnItems(Fitted):
    """Ranks the items of a user's history."""

    @abstractmethod
    def item_scores(self, history: "csr_matrix") -> NDArray[np.float32]:
        """The score of each value of a history."""

    def score(self, history: "csr_matrix", *, out: Scores | None = None) -> Scores:
        scores = np.empty((history.shape[0], self.num_items), np.float32) if out is None else out
        scores[:] = -np.inf
        rows = np.repeat(np.arange(history.shape[0]), np.diff(history.indptr))
        scores[rows, history.indices] = self.item_scores(history)
        return scores

    def reasons(self, history: "csr_matrix", items: Codes) -> Codes:
        return own_items(history, items)


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
class FittedRepeatPurchase(_FittedOwnItems):
    """Has no learned parameters: scores depend on the history alone."""

    item_keys: pa.Array
    half_life_days: float | None

    def weight_interactions(self, interactions: Interactions) -> "csr_matrix":
        """Decayed counts; as of another day all differ by the same factor, so the order stays."""
        if not len(interactions):
            return interactions.matrix()
        return interactions.matrix(decay_weights(interactions, self.half_life_days))

    def item_scores(self, history: "csr_matrix") -> NDArray[np.float32]:
        return np.asarray(history.data)


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
class FittedHabits(_FittedOwnItems):
    item_keys: pa.Array
    prior: Scores  # the amount that popularity adds to an item's score, float32 [items]
    half_lives_days: NDArray[np.float64]

    def weight_interactions(self, interactions: Interactions) -> "csr_matrix":
        """Sums of the decayed counts, CSR [users, items]; as of another day the order may change a little."""
        if not len(interactions):
            return interactions.matrix()
        decays = np.stack([decay_weights(interactions, life) for life in self.half_lives_days])
        return interactions.matrix(decays.sum(axis=0))

    def item_scores(self, history: "csr_matrix") -> NDArray[np.float32]:
        return np.asarray(np.log(history.data) + self.prior[history.indices])


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
