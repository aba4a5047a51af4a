"""Two towers: a network from a user's history to a vector, a vector for each item, and their dot product as score."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.declare.checks.fields import check_fields, check_least, check_value
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.models.base import (
    Factors,
    RecommenderModel,
    Scores,
    check_not_empty,
    check_range,
    power_weights,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class TwoTowers(RecommenderModel):
    """Learn both towers by predicting a random share of each user's items from the others.

    The user tower sums the embeddings of the user's items, over the square root of their weight, and adds the output of
    a layer with ReLU (Covington, Adams and Sargin, "Deep Neural Networks for YouTube Recommendations", 2016). An
    item has an embedding and a bias. The loss is a softmax over the items of the batch, corrected for the chance that
    each is in it (Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019).
    Trained with torch on one core; scoring needs numpy only.

    Attributes:
        factors: Numbers in an embedding.
        hidden: Width of the layer.
        epochs: Passes over all users.
        batch_users: Users of a step.
        target_share: Share of a user's items that are to be predicted, drawn again in each step, in (0, 1).
        weight_power: Power of a pair's summed weight: 0 counts each item of a user as 1, whatever its weights.
    """

    factors: int = 64
    hidden: int = 64
    epochs: int = 50
    batch_users: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    target_share: float = 0.5
    weight_power: float = 0.0

    def __post_init__(self) -> None:
        owner = "`TwoTowers`"
        check_fields(owner, self)
        check_least(owner, self, 1, "factors", "hidden", "epochs", "batch_users")
        check_least(owner, self, 0, "learning_rate", above=True)
        check_least(owner, self, 0, "weight_decay")
        check_value(owner, "target_share", self.target_share, 0 < self.target_share < 1, "It is above 0, less than 1.")
        check_range(owner, self, ("weight_power",), 0, 2)

    @property
    def vector_size(self) -> int:
        return self.factors + 1  # and the bias of an item

    def fit(self, interactions: Interactions, *, seed: int) -> "FittedTwoTowers":
        from forecache.plugins.recommend.models.towers_training import train

        check_not_empty(interactions, "`TwoTowers`")
        history = power_weights(interactions.matrix(), self.weight_power)
        known = np.bincount(history.indices, minlength=interactions.num_items) > 0
        arrays = train(self, history, seed=seed)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise InputError(
                "`TwoTowers` found vectors that are no numbers.", remedy="Lower learning_rate, or raise weight_decay."
            )
        # An item that training did not see would keep its initial vectors.
        arrays["item_vectors"][~known] = 0
        arrays["embeddings"][~known] = 0
        return FittedTwoTowers(
            item_keys=interactions.item_keys, known_items=known, weight_power=self.weight_power, **arrays
        )


@dataclass(frozen=True, eq=False)
class FittedTwoTowers(Factors):
    """Attributes:
    item_vectors: Embedding and bias, float32 [items, d + 1].
    embeddings: Of items in a history, float32 [items, d].
    hidden_weights, hidden_bias, output_weights, output_bias: The user tower's layer, [d, h], [h], [h, d], [d].
    """

    item_keys: pa.Array
    item_vectors: Scores
    known_items: NDArray[np.bool_]
    embeddings: Scores
    hidden_weights: Scores
    hidden_bias: Scores
    output_weights: Scores
    output_bias: Scores
    weight_power: float

    def weight_interactions(self, interactions: Interactions) -> "csr_matrix":
        return power_weights(interactions.matrix(), self.weight_power)

    def can_rank(self, history: "csr_matrix") -> NDArray[np.bool_]:
        """True for users with an item that training saw, bool [n]."""
        return np.asarray(history.dot(self.known_items.astype(np.float32)) > 0)

    def user_vectors(self, history: "csr_matrix") -> Scores:
        known = self.can_rank(history)
        total = history.dot(self.known_items.astype(np.float32))
        bag = history.dot(self.embeddings) / np.sqrt(np.where(known, total, 1))[:, None]
        hidden = np.maximum(bag @ self.hidden_weights + self.hidden_bias, 0)
        tower = bag + hidden @ self.output_weights + self.output_bias
        vectors = np.hstack([tower, np.ones((len(tower), 1), np.float32)]).astype(np.float32)
        vectors[~known] = 0
        return vectors
