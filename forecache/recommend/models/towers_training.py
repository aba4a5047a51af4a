"""Training of the two towers, in torch on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from forecache.recommend.models.two_towers import TwoTowers


def train(model: "TwoTowers", history: "csr_matrix", *, seed: int) -> dict[str, NDArray[np.float32]]:
    """Both towers' arrays, named as in `FittedTwoTowers`, after all epochs over the pairs of a history."""
    with _one_thread():
        return _train(model, history, seed=seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are the same to the bit on any number of cores; steps as small as these gain nothing from a second one."""
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
    towers = _initialized(model, history.shape[1], drawn)
    optimizer = torch.optim.AdamW(towers.values(), lr=model.learning_rate, weight_decay=model.weight_decay)
    rows = torch.from_numpy(np.repeat(np.arange(history.shape[0]), np.diff(history.indptr)))
    items = torch.from_numpy(history.indices.astype(np.int64))
    histories = _Histories(history, model.history_dropout, drawn)
    frequency = torch.bincount(items, minlength=history.shape[1]).double().clamp(min=1)
    log_share = (frequency / frequency.sum()).log().float()
    for _ in range(model.epochs):
        order = torch.randperm(len(items), generator=drawn)
        for some in order.split(model.batch_size):
            if len(some) < 2:
                continue  # alone in a batch, an item has no negatives
            target = items[some]
            user = _user_vectors(towers, *histories.bags(rows[some], target))
            logits = user @ towers["items"][target].T + towers["bias"][target] - log_share[target]
            # Another place of the same item is no negative.
            same = (target[:, None] == target[None, :]).fill_diagonal_(fill_value=False)
            loss = torch.nn.functional.cross_entropy(logits.masked_fill(same, float("-inf")), torch.arange(len(some)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = {name: tensor.detach().numpy() for name, tensor in towers.items()}
    vectors = np.hstack([found.pop("items"), found.pop("bias")[:, None]])
    return {"item_vectors": vectors, **found}


def _initialized(model: "TwoTowers", num_items: int, drawn: Any) -> dict[str, Any]:
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
    """The users' items, from which a step takes those of its users."""

    def __init__(self, history: "csr_matrix", dropout: float, drawn: Any) -> None:
        import torch

        self._starts = torch.from_numpy(history.indptr[:-1].astype(np.int64))
        self._counts = torch.from_numpy(np.diff(history.indptr).astype(np.int64))
        self._items = torch.from_numpy(history.indices.astype(np.int64))
        self._weights = torch.from_numpy(history.data)
        self._dropout, self._drawn = dropout, drawn

    def bags(self, users: Any, target: Any) -> tuple[Any, Any, Any, Any]:
        """Items and weights of some users one after the other, where each begins, and the sum of each one's weights.

        A user's target weighs nothing.
        """
        import torch

        counts = self._counts[users]
        offsets = counts.cumsum(0) - counts
        row = torch.arange(len(users)).repeat_interleave(counts)
        flat = self._starts[users][row] + torch.arange(len(row)) - offsets[row]
        items = self._items[flat]
        kept = torch.rand(len(flat), generator=self._drawn) >= self._dropout
        weights = self._weights[flat] * (kept & (items != target[row]))
        return items, weights, offsets, torch.zeros(len(users)).index_add_(0, row, weights)


def _user_vectors(towers: dict[str, Any], items: Any, weights: Any, offsets: Any, total: Any) -> Any:
    import torch

    bag = torch.nn.functional.embedding_bag(
        items, towers["embeddings"], offsets, mode="sum", per_sample_weights=weights
    )
    bag = bag / torch.where(total > 0, total, 1.0).sqrt()[:, None]
    hidden = torch.relu(bag @ towers["hidden_weights"] + towers["hidden_bias"])
    return bag + hidden @ towers["output_weights"] + towers["output_bias"]
