"""Training of the two towers, in torch on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from forecache.plugins.recommend.models.two_towers import TwoTowers


def train(model: "TwoTowers", history: "csr_matrix", *, seed: int) -> dict[str, NDArray[np.float32]]:
    """Train both towers on the pairs of a history; returns their arrays, named as in `FittedTwoTowers`."""
    with _one_thread():
        return _train(model, history, seed=seed)


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


def _train(model: "TwoTowers", history: "csr_matrix", *, seed: int) -> dict[str, NDArray[np.float32]]:
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
        """Divide each user's items at random into targets and the user tower's input.

        Returns:
            The tower's input (items of all users in order, their weights, each user's start, each user's sum of
            weights), and for each target the row of its user and the item.
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
