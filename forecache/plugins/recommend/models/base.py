"""Interface of recommenders: a declaration that fits, and a fitted model that scores blocks of users."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.declare.checks import check_value
from forecache.plugins.recommend.interactions import Codes, Interactions

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


Scores = NDArray[np.float32]


class RecommenderModel(ABC):
    """A declared recommender: a frozen dataclass of hyper-parameters, checked when it is made."""

    @property
    def vector_size(self) -> int | None:
        """Numbers in the vectors whose dot product is its score, fitted as `Factors`; None: it has none."""
        return None

    @abstractmethod
    def fit(self, interactions: Interactions, *, seed: int) -> "Fitted":
        """Learn from interactions; the same ones in the same order and the same seed give the same model to the bit.

        Raises:
            InputError: There are no interactions, or more items than the model can take.
        """


class Fitted(ABC):
    """A fitted recommender: a frozen dataclass of arrays and numbers.

    Attributes:
        item_keys: All items that the model was fitted with, by code, an Arrow array.
    """

    item_keys: pa.Array

    @property
    def num_items(self) -> int:
        return len(self.item_keys)

    def history(self, interactions: Interactions) -> "csr_matrix":
        """Input of `score`: a row for each user of the interactions, weighted as this model needs it.

        Interactions with items that the model does not know are left out.

        Returns:
            CSR float32 [users, items], in the codes of the interactions' users and the model's items.
        """
        return self.weight_interactions(interactions.recode(item_keys=self.item_keys))

    def weight_interactions(self, interactions: Interactions) -> "csr_matrix":
        """Weight interactions that are in the model's codes already; see `history`."""
        return interactions.matrix()

    def can_rank(self, history: "csr_matrix") -> NDArray[np.bool_]:
        """True for users whom the model can rank for, bool [n]: by default, those with a history."""
        return np.diff(history.indptr) > 0

    @abstractmethod
    def score(self, history: "csr_matrix", *, out: Scores | None = None) -> Scores:
        """Score all items for a block of users; -inf marks an item that the model cannot rank for a user.

        Args:
            history: Rows of `history`, CSR [n, items].
            out: Array to write into, float32 [n, items]; None: a new array.

        Returns:
            float32 [n, items]; a higher score ranks higher, and scores compare within a row only.
        """

    def similar(self, items: Codes) -> Scores | None:
        """Similarity of some items to all, float32 [m, items], -inf to itself; None if the model has none."""
        return None

    def reasons(self, history: "csr_matrix", items: Codes) -> Codes:
        """For each recommended item, the item of the user's own that contributed most to its score.

        Args:
            history: CSR [n, items].
            items: Recommended items, int32 [n, k]; -1 behind the end of a list.

        Returns:
            Codes, int32 [n, k]; -1 for none or unknown.
        """
        return np.full(items.shape, -1, np.int32)


class Factors(Fitted):
    """A fitted model whose score is the dot product of a user's and an item's vector.

    Attributes:
        item_vectors: float32 [items, d].
        known_items: Items that training saw, bool [items]. The others have a vector of zeros; leave them out of lists.
    """

    item_vectors: Scores
    known_items: NDArray[np.bool_]

    @abstractmethod
    def user_vectors(self, history: "csr_matrix") -> Scores:
        """The vectors of a block of users, float32 [n, d]; zeros for a user without history."""

    def score(self, history: "csr_matrix", *, out: Scores | None = None) -> Scores:
        scores = np.matmul(self.user_vectors(history), self.item_vectors.T, out=out)
        scores[:, ~self.known_items] = -np.inf
        return scores

    def similar(self, items: Codes) -> Scores:
        norms = np.linalg.norm(self.item_vectors, axis=1, keepdims=True)
        unit = self.item_vectors / np.maximum(norms, np.finfo(np.float32).tiny)
        found = np.asarray(unit[items] @ unit.T, np.float32)
        return without_itself(found, items)


def without_itself(scores: Scores, items: Codes) -> Scores:
    """Set each item's score for itself to -inf, in place."""
    scores[np.arange(len(items)), items] = -np.inf
    return scores


def own_items(history: "csr_matrix", items: Codes) -> Codes:
    """The item itself as its reason if the user had it, else -1; int32 [n, k]."""
    rows = np.arange(len(items))[:, None]
    owned = history[np.broadcast_to(rows, items.shape).ravel(), np.maximum(items, 0).ravel()]
    is_own = np.asarray(owned).reshape(items.shape) > 0
    return np.where(is_own & (items >= 0), items, -1).astype(np.int32)


def power_weights(matrix: "csr_matrix", power: float) -> "csr_matrix":
    """Raise the weights of a history to a power; 0 makes all 1. Pairs whose weight is 0 are dropped."""
    found = matrix.copy()
    found.eliminate_zeros()
    if power != 1:
        found.data = np.power(found.data, np.float32(power))
    return found


def decay_weights(interactions: Interactions, half_life_days: float | None) -> NDArray[np.float32]:
    """Weight of each interaction on the last day by exponential decay, float32 [n] in (0, 1]."""
    if half_life_days is None:
        return np.ones(len(interactions), np.float32)
    age = (np.datetime64(interactions.last_day, "D") - interactions.days).astype(np.float32)
    # Even a very old interaction keeps a weight above 0.
    return np.maximum(np.exp2(-age / np.float32(half_life_days)), np.finfo(np.float32).tiny)


def check_not_empty(interactions: Interactions, model: str) -> None:
    if not len(interactions) or not interactions.weights.any():
        raise InputError(
            f"{model} has no interactions to learn from.", remedy="Choose days that have some with a weight above 0."
        )


def check_range(owner: str, declared: Any, names: Sequence[str], least: float, most: float) -> None:
    for name in names:
        value = getattr(declared, name)
        check_value(owner, name, value, least <= value <= most, f"It is from {least:g} to {most:g}.")
