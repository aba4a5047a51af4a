"""The argument of a user's own training function (`TorchModel.fit`)."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from forecache.declare.models.model import Training

MakeState = Callable[[], dict[str, Any]]


class FitRun(Protocol):
    """A training run on this rank, for a declared `fit`; every rank has to call the same methods in the same order.

    Attributes:
        device: Device of the tensors; the network should be on it, too.
        rank: This process among the `world_size` workers; their process group is torch's default one.
        training: The declaration's `Training`.
        num_features: Columns of the features.
        num_rows: Rows of an epoch over all ranks, in `num_steps` steps.
        restored: If the run resumes, the state that the function gave to `step_done` or `end_epoch`, with whole tensors
            on the CPU; else None.
    """

    device: "torch.device"
    rank: int
    world_size: int
    training: "Training"
    num_features: int
    num_rows: int
    num_steps: int
    restored: dict[str, Any] | None

    @property
    def epoch(self) -> int:
        """The next epoch, or the one that the run resumes in, from 0."""

    @property
    def history(self) -> list[dict[str, float]]:
        """A record for each epoch that has ended, with `train_loss` and `validation_loss`."""

    def build(self) -> "nn.Module":
        """The declared network, equal on every rank, on the device."""

    def batches(self) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        """This rank's share of each remaining step of the epoch; `step_done` has to be called after each.

        Random numbers are seeded for each step, so that a resumed run draws the same.

        Yields:
            Features float32 [n, num_features], scaled and without nulls, and labels float32 [n, 1] (for classes their
            positions), or [n, 2] with the weight second if the label has a weight. The shares of ranks can differ by a
            row, and be empty if a step has few rows; together they have `step_rows` rows.
        """

    @property
    def step_rows(self) -> int:
        """Rows of the current step over all ranks."""

    def loss(self, output: "torch.Tensor", label: "torch.Tensor") -> "torch.Tensor":
        """The declared loss of outputs [n, values] for labels as `batches` yields them, a scalar mean."""

    def step_done(self, make_state: MakeState) -> None:
        """Count a step, write a checkpoint if it is due, and end the run here if it was told to stop.

        Args:
            make_state: Called for a checkpoint; returns the state that the function needs to resume, tensors and plain
                values in dictionaries and lists. Rank 0's is saved; of DTensors each rank's shard.
        """

    def end_epoch(self, network: "nn.Module", make_state: MakeState, *, train_loss: float) -> float:
        """Evaluate the network, record the epoch and save; returns the validation loss over all ranks.

        Args:
            train_loss: Mean over the epoch, for `history`.
        """

    def sum(self, *values: float) -> list[float]:
        """The sums of values over all ranks."""
