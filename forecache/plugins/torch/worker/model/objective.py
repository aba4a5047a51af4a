"""The loss that a network is trained by: the declared one, or a default for the pipeline's task."""

import torch
from torch import nn
from torch.nn import functional

from forecache.base.errors import InputError
from forecache.declare import Trainable


class Objective(nn.Module):
    """The loss of outputs [n, values] against labels [n, 1], or labels and weights [n, 2], a scalar mean.

    Labels are in their own unit, classes as their positions. Without a declared loss, that of the first output counts:
    binary cross-entropy, Huber, cross-entropy, or the pinball loss (Koenker and Bassett 1978) over the levels.

    Args:
        width: Values of the first output.
    """

    def __init__(self, pipeline: Trainable, width: int = 1) -> None:
        super().__init__()
        self.loss, self.task, self.width = pipeline.network.loss, pipeline.task, width
        self.log_target = pipeline.network.target == "log1p"
        self.register_buffer("levels", torch.tensor(pipeline.output_specs[0].levels))

    def forward(self, output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        target, weight = label[:, :1], label[:, 1:]
        target = torch.log1p(target) if self.log_target else target
        if not weight.shape[1]:
            return self._default(output, target, "mean") if self.loss is None else self.loss(output, target)
        losses = self._default(output, target, "none") if self.loss is None else self.loss(output, target)
        if losses.numel() != len(weight):
            raise InputError(
                f"The declared loss returns {losses.numel()} values for {len(weight)} rows that have weights.",
                remedy="Return a loss for each row, as `reduction='none'` does.",
            )
        return (losses.reshape(-1) * weight[:, 0]).mean()

    def _default(self, output: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
        first = output[:, : self.width]
        if self.task == "binary":
            return functional.binary_cross_entropy_with_logits(first, target, reduction=reduction)
        if self.task == "multiclass":
            return functional.cross_entropy(first, target[:, 0].long(), reduction=reduction)
        if self.task == "regression":
            return functional.huber_loss(first, target, reduction=reduction)
        difference = target - first
        losses = torch.maximum(self.levels * difference, (self.levels - 1) * difference).mean(dim=1)
        return losses.mean() if reduction == "mean" else losses
