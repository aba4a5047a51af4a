"""Two towers: a network from a user's history to a vector, a vector for each item, and their dot product as score."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.declare.checks import check_fields, check_least, check_value
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
    item_keys: pa.Array
    item_vectors: Scores  # embedding and bias, float32 [items, d + 1]
    known_items: NDArray[np.bool_]
    embeddings: Scores  # of items in a history, float32 [items, d]
    hidden_weights: Scores  # the user tower's layer: [d, h], [h], [h, d], [d]
    hidden_bias: Scores
    output_weights: Scores
    output_bias: Scores
    weight_power: float

    def weight_interactions(self, interactions: Interactions) -> "csr_matrix":
        return power_weights(interactions.matrix(), self.weight_power)

    def can_rank(self, history: "csr_matrix") -> NDArray[np.bool_]:
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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: sums are equal to the bit on any number of cores, and small steps gain nothing from a second."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def train(model: TwoTowers, history: "csr_matrix", *, seed: int) -> dict[str, NDArray[np.float32]]:
    """Train both towers on the pairs of a history; returns their arrays, named as in `FittedTwoTowers`."""
    import torch

    drawn = torch.Generator().manual_seed(seed)
    towers = _initialize_towers(model, history.shape[1], drawn)
    optimizer = torch.optim.AdamW(towers.values(), lr=model.learning_rate, weight_decay=model.weight_decay)
    histories = _Histories(history, model.target_share, drawn)
    users = torch.from_numpy(np.flatnonzero(np.diff(history.indptr)))
    log_chance = _log_chance(model, history, len(users))
    for _ in range(model.epochs):
        order = users[torch.randperm(len(users), generator=drawn)]
        for some in order.split(model.batch_users):
            bags, rows, targets = histories.divide_items(some)
            candidates, place = torch.unique(targets, return_inverse=True)
            if len(candidates) < 2:
                continue  # an item that is alone in a batch has no negatives
            logits = _user_vectors(towers, *bags) @ towers["items"][candidates].T
            logits = logits + towers["bias"][candidates] - log_chance[candidates]
            loss = -torch.log_softmax(logits, dim=1)[rows, place].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = {name: tensor.detach().numpy() for name, tensor in towers.items()}
    vectors = np.hstack([found.pop("items"), found.pop("bias")[:, None]])
    return {"item_vectors": vectors, **found}


def _log_chance(model: "TwoTowers", history: "csr_matrix", num_users: int) -> Any:
    """Logarithm of the chance that an item is among the candidates of a batch, float32 [items]."""
    import torch

    users_of_item = np.maximum(np.bincount(history.indices, minlength=history.shape[1]), 1)
    expected = users_of_item * model.target_share * min(1.0, model.batch_users / num_users)
    return torch.from_numpy(np.log(-np.expm1(-expected)).astype(np.float32))


def _initialize_towers(model: "TwoTowers", num_items: int, drawn: Any) -> dict[str, Any]:
    import torch

    shapes = {
        "embeddings": (num_items, model.factors),
        "items": (num_items, model.factors),
        "hidden_weights": (model.factors, model.hidden),
        "output_weights": (model.hidden, model.factors),
    }
    towers = {
        name: torch.randn(shape, generator=drawn) / (model.hidden if name == "output_weights" else model.factors) ** 0.5
        for name, shape in shapes.items()
    }
    for name, size in (("hidden_bias", model.hidden), ("output_bias", model.factors), ("bias", num_items)):
        towers[name] = torch.zeros(size)
    return {name: tensor.requires_grad_() for name, tensor in towers.items()}


class _Histories:
    """Items of the users, divided at random into inputs and targets in each step."""

    def __init__(self, history: "csr_matrix", target_share: float, drawn: Any) -> None:
        import torch

        self._starts = torch.from_numpy(history.indptr[:-1].astype(np.int64))
        self._counts = torch.from_numpy(np.diff(history.indptr).astype(np.int64))
        self._items = torch.from_numpy(history.indices.astype(np.int64))
        self._weights = torch.from_numpy(history.data)
        self._share, self._drawn = target_share, drawn

    def divide_items(self, users: Any) -> tuple[tuple[Any, ...], Any, Any]:
        """Divide each user's items at random into the user tower's input and targets, each a user's row and item.

        The input is the items of all users in order, their weights, each user's start, and each user's sum of weights.
        """
        import torch

        counts = self._counts[users]
        first = counts.cumsum(0) - counts
        row = torch.arange(len(users)).repeat_interleave(counts)
        flat = self._starts[users][row] + torch.arange(len(row)) - first[row]
        is_target = torch.rand(len(flat), generator=self._drawn) < self._share
        kept, row_kept = flat[~is_target], row[~is_target]
        weights = self._weights[kept]
        num_kept = torch.bincount(row_kept, minlength=len(users))
        total = torch.zeros(len(users)).index_add_(0, row_kept, weights)
        bags = (self._items[kept], weights, num_kept.cumsum(0) - num_kept, total)
        return bags, row[is_target], self._items[flat[is_target]]


def _user_vectors(towers: dict[str, Any], items: Any, weights: Any, offsets: Any, total: Any) -> Any:
    import torch

    bag = torch.nn.functional.embedding_bag(
        items, towers["embeddings"], offsets, mode="sum", per_sample_weights=weights
    )
    bag = bag / torch.where(total > 0, total, 1.0).sqrt()[:, None]
    hidden = torch.relu(bag @ towers["hidden_weights"] + towers["hidden_bias"])
    return bag + hidden @ towers["output_weights"] + towers["output_bias"]
