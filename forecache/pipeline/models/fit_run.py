"""What a training function of the user's own (`TorchModel.fit`) is given."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from forecache.pipeline.models.model import Training

MakeState = Callable[[], dict[str, Any]]


class FitRun(Protocol):
    """One run on this rank, as a declared `fit` sees it; every rank calls the same methods at the same points.

    Attributes:
        device: Where tensors come and the network should be.
        rank: This process among the `world_size` workers; their process group is torch's default one.
        training: The declaration's `Training`.
        num_features: Columns of the features.
        num_rows: Rows of an epoch over all ranks, in `num_steps` steps.
        restored: What the function gave to `step_done` or `end_epoch` as its state, where the run resumes, with whole
            tensors on the CPU; else None.
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
        """The epoch that comes next, or that the run resumes in, from 0."""

    @property
    def history(self) -> list[dict[str, float]]:
        """A record for each epoch that has ended, with `train_loss` and `validation_loss`."""

    def build(self) -> "nn.Module":
        """The declared network, equal on every rank, on the device."""

    def batches(self) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        """This rank's share of each step that is left of the epoch; `step_done` has to follow each.

        Random numbers are seeded for each step, so that a resumed run draws the same.

        Yields:
            Features float32 [n, num_features], scaled and without nulls, and labels float32 [n, 1], of classes
            their positions; where the label has a weight [n, 2], the weight second. A rank's share can
            have a row more or less than another's, and none where a step has few rows; all ranks' are `step_rows`.
        """

    @property
    def step_rows(self) -> int:
        """Rows of the current step over all ranks."""

    def loss(self, output: "torch.Tensor", label: "torch.Tensor") -> "torch.Tensor":
        """The declared loss of outputs [n, values] against labels as they come, a scalar mean."""

    def step_done(self, make_state: MakeState) -> None:
        """Count a step; a checkpoint is written where it is due, and where the run was asked to stop it ends here.

        Args:
            make_state: Called for a checkpoint; returns what the function needs to go on, tensors and plain values in
                dictionaries and lists. Rank 0's is kept; of DTensors each rank's shard.
        """

    def end_epoch(self, network: "nn.Module", make_state: MakeState, *, train_loss: float) -> float:
        """Evaluate the network, record the epoch and save; returns the validation loss over all ranks.

        Args:
            train_loss: For the record; the mean over the epoch.
        """

    def sum(self, *values: float) -> list[float]:
        """The sums of values over all ranks."""
