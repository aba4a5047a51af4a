"""One optimizer step: gradients of the step's rows on all ranks, accumulated in parts to save memory, then AdamW.

The learning rate is a function of the step alone, so that a resumed run needs no state for it.
"""

import math
from typing import Any

import torch

from forecache.declare import Training
from forecache.plugins.torch.worker.distributed.group import WorkerGroup
from forecache.plugins.torch.worker.distributed.parallel import ParallelNetwork, Precision
from forecache.plugins.torch.worker.model.model import Prepare
from forecache.plugins.torch.worker.model.objective import Objective
from forecache.plugins.torch.worker.reading.reader import TrainingBatch


def learning_rate(training: Training, step: int, num_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of the `num_steps` that all epochs have.

    It rises linearly to `training.learning_rate` during the warm-up, then follows the schedule; a decaying schedule
    would reach zero one step after the last.
    """
    warmup = round(training.warmup_share * num_steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    if training.schedule == "linear":
        return training.learning_rate * (1 - done)
    return training.learning_rate


class Stepper:
    """Performs the optimizer steps of a run.

    Args:
        model: The network on all ranks.
        precision: The precision that `model` was made for.
        num_steps: Steps of all epochs, for the learning rate's schedule.
    """

    def __init__(
        self,
        group: WorkerGroup,
        training: Training,
        *,
        model: ParallelNetwork,
        precision: Precision,
        prepare: Prepare,
        objective: Objective,
        num_steps: int,
    ) -> None:
        self.group, self.training, self.num_steps = group, training, num_steps
        self.model, self.prepare, self.objective = model, prepare, objective
        self.optimizer = torch.optim.AdamW(
            model.network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        self.precision = precision
        self.learning_rate = training.learning_rate
        self.gradient_norm: torch.Tensor | None = None

    def state(self) -> dict[str, Any]:
        """The state that later steps depend on; tensors are laid out like the network's."""
        network, optimizer = self.model.state(self.optimizer)
        return {"network": network, "optimizer": optimizer, "scaler": self.precision.scaler.state_dict()}

    def layout(self) -> dict[str, Any]:
        """A state whose DTensors define the sharding to load a checkpoint into; call it before the first step."""
        state = self.state()
        self.optimizer.state.clear()  # reading it made a step of zeros, which AdamW would count
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of `state`."""
        self.model.load(state["network"])
        self.model.load_optimizer(self.optimizer, state["optimizer"])
        self.precision.scaler.load_state_dict(state["scaler"])

    def step(self, batch: TrainingBatch, *, number: int, rows: int) -> torch.Tensor:
        """Perform step `number` (from 0, over all epochs) on this rank's batch; every rank must call it.

        Args:
            rows: Rows of the step over all ranks.

        Returns:
            The sum of the loss over this rank's rows, float64 [].
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.group.device)
        parts = batch.on(self.group.device).parts(self.training.accumulation)  # the same number on every rank
        for number_of_part, part in enumerate(parts):
            with self.model.part_context(last=number_of_part == len(parts) - 1):
                loss_sum += self._add_gradient(part, rows)
        scaler = self.precision.scaler
        if self.training.max_gradient_norm is not None:
            scaler.unscale_(self.optimizer)
            self.gradient_norm = self.model.clip_gradient(self.training.max_gradient_norm)
        self.learning_rate = learning_rate(self.training, number, self.num_steps)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.learning_rate
        scaler.step(self.optimizer)
        scaler.update()
        return loss_sum

    def _add_gradient(self, part: TrainingBatch, rows: int) -> torch.Tensor:
        mine, filled = len(part), part.or_placeholder()
        prepared = self.prepare(filled.features)
        with self.precision.autocast():
            output = self.model.forward(prepared)
        loss = self.objective(output.float(), filled.target)
        # The gradient exchange averages over ranks; weighted by its rows, a part adds its share of the step's mean.
        self.precision.scaler.scale(loss * (mine * self.group.world_size / rows)).backward()
        return loss.detach().double() * mine
