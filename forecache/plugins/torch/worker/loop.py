"""The training loop: steps over the reader's order, early stopping, and an exact position to resume.

A checkpoint has all state that later steps depend on, and the random numbers of a step depend on (seed, epoch, step,
rank) alone. So an interrupted run ends with the same weights as an uninterrupted one.
"""

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from forecache.base.errors import InputError
from forecache.declare import Training
from forecache.plugins.torch.worker.network import Objective, Prepare
from forecache.plugins.torch.worker.parallel import (
    ParallelNetwork,
    Precision,
    State,
    WorkerGroup,
    choose_placement,
    gather_weights,
)
from forecache.plugins.torch.worker.reader import TrainingBatch
from forecache.plugins.torch.worker.session import TrainingSession


def learning_rate(training: Training, step: int, num_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of the `num_steps` that all epochs have: a linear warm-up,
    then the schedule; a decaying schedule would reach zero one step after the last."""
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
    """Performs the optimizer steps of a run, `num_steps` over all epochs, on a network that was made for the
    precision."""

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
        """Perform step `number` (from 0, over all epochs), of `rows` over all ranks, on this rank's batch; every rank
        must call it. Returns the sum of the loss over this rank's rows, float64 []."""
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


_REPORT_EVERY_S = 1.0
_MIN_IMPROVEMENT = 1e-6


class TrainingLoop:
    """Trains the declared network in a session; every rank builds it on the CPU from the same seed.

    With `num_epochs` it trains so long, without the validation split, and keeps the last weights.
    """

    def __init__(self, session: TrainingSession, network: nn.Module, *, num_epochs: int | None = None) -> None:
        self.session, self.training, self.group = session, session.training, session.group
        self.placement = choose_placement(network, self.group, self.training.parallel)
        precision = Precision(self.training.precision, self.group.device)
        self.model = ParallelNetwork(self.group, network, self.placement.kind, precision.dtype)
        if self.training.compile:
            network.compile()
        self.stepper = Stepper(
            self.group,
            self.training,
            model=self.model,
            precision=precision,
            prepare=session.prepare,
            objective=session.objective,
            num_steps=self.training.epochs * session.train.num_steps,
        )
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.group.device)
        self.best_loss, self.best_epoch = float("inf"), -1
        self.num_epochs = num_epochs
        self.best = {} if num_epochs else self.model.weights()
        self._unreported_loss, self._unreported_rows = torch.zeros_like(self.loss_sum), 0
        self._reported_at = time.monotonic()

    @property
    def is_finished(self) -> bool:
        if self.num_epochs is not None:
            return self.session.epoch >= self.num_epochs
        waited = len(self.session.history) - 1 - self.best_epoch
        return self.session.epoch >= self.training.epochs or (self.best_epoch >= 0 and waited >= self.training.patience)

    def state(self) -> dict[str, Any]:
        """The state that later steps depend on besides the session's position; every rank must call it together."""
        [loss_sum] = self.group.sum(float(self.loss_sum))
        self.loss_sum.fill_(loss_sum if self.group.rank == 0 else 0.0)
        return {
            **self.stepper.state(),
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "loss_sum": loss_sum,
        }

    def layout(self) -> dict[str, Any] | None:
        """A state whose DTensors define the sharding to load a checkpoint into; None under DDP."""
        return {**self.stepper.layout(), "best": self.best} if self.model.kind == "fsdp" else None

    def load(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint, sharded like `layout`, that any number of workers saved, under DDP or FSDP;
        InputError if it belongs to another sample order."""
        self.session.restore(state)
        self.stepper.load(state)
        self.best = {name: tensor.to(self.group.device) for name, tensor in state["best"].items()}
        self.best_loss, self.best_epoch = state["best_loss"], state["best_epoch"]
        self.loss_sum.fill_(state["loss_sum"] if self.group.rank == 0 else 0.0)

    def fit(self) -> State:
        """Train to the last epoch or until validation stops improving; Interrupted if asked to stop: a checkpoint has
        the position.

        Returns the best weights, or the last ones: whole, by name, on the CPU of rank 0; empty elsewhere.
        """
        while not self.is_finished:
            self.train_epoch()
            self._end_epoch()
        if self.num_epochs is None:
            self.model.load(self.best)
        return gather_weights(self.model.network)

    def result_entries(self) -> dict[str, Any]:
        """Entries for the run's result: how the network was distributed, and its precision."""
        return {"parallel": asdict(self.placement), "precision": self.stepper.precision.name}

    def train_epoch(self) -> None:
        """Perform the epoch's remaining steps."""
        self.model.forward.train()
        for batch in self.session.batches():
            self._train_step(batch)
            self.session.step_done(self.state)
            self._report_progress()

    def _train_step(self, batch: TrainingBatch) -> None:
        session = self.session
        rows = session.train.step_rows(session.step)
        loss_sum = self.stepper.step(batch, number=session.global_step, rows=rows)
        self.loss_sum += loss_sum
        self._unreported_loss += loss_sum
        self._unreported_rows += len(batch)

    def _end_epoch(self) -> None:
        session = self.session
        if session.epoch + 1 < (self.num_epochs or self.training.epochs):
            session.reader.read_ahead(session.epoch + 1)
        if self.num_epochs is not None:
            [loss_sum] = self.group.sum(float(self.loss_sum))
            if not math.isfinite(loss_sum):
                raise InputError(
                    f"The loss is not a number after epoch {session.epoch} of the training on all splits.",
                    remedy="Lower the learning rate, or check the label and the features for extreme values.",
                )
            self.loss_sum.zero_()
            session.end_epoch()
            session.save(self.state)
            return
        validation_loss = session.validation_loss(self.model.network, self.state)
        if validation_loss < self.best_loss - _MIN_IMPROVEMENT:
            self.best_loss, self.best_epoch = validation_loss, session.epoch
            self.best = self.model.weights()
        [loss_sum] = self.group.sum(float(self.loss_sum))
        self.loss_sum.zero_()
        record = session.record_epoch(loss_sum / session.train.split.rows, validation_loss)
        session.save(self.state)
        session.report("epoch", **record, best_epoch=self.best_epoch, epochs=self.training.epochs)

    def _report_progress(self) -> None:
        """Report, at most once a second, rank 0's mean loss since the last report and the last step's learning rate."""
        if self.group.rank or time.monotonic() - self._reported_at < _REPORT_EVERY_S:
            return
        norm = self.stepper.gradient_norm
        self.session.report(
            "progress",
            step=self.session.global_step,
            epoch=self.session.epoch,
            share=self.session.global_step / self.stepper.num_steps,
            step_loss=float(self._unreported_loss) / max(1, self._unreported_rows),
            learning_rate=self.stepper.learning_rate,
            **({} if norm is None else {"gradient_norm": float(norm)}),
        )
        self._reported_at, self._unreported_rows = time.monotonic(), 0
        self._unreported_loss.zero_()
