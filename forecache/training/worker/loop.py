"""The training loop: DDP steps over the reader's order, validation, early stopping, and an exact position to resume.

All state that a later step depends on is in `Loop.state()`; random numbers of a step come from (seed, epoch, step,
rank) alone. So a run that was interrupted ends with the same weights as one that was not.
"""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from forecache.errors import InputError
from forecache.pipeline import Training
from forecache.training.worker.checkpoint import Checkpoints
from forecache.training.worker.data import Batch, EpochOrder, Reader
from forecache.training.worker.group import Group
from forecache.training.worker.model import Objective, Prepare
from forecache.training.worker.usage import Usage

_STOP_POLL_STEPS = 4
_REPORT_EVERY_S = 1.0
_MIN_IMPROVEMENT = 1e-6

Report = Callable[..., None]


class Interrupted(Exception):
    """The run was asked to stop; its position is on disk."""


class Loop:
    """One run's network, optimizer and position.

    Args:
        network: The declared network, on the group's device; every rank builds it from the same seed.
        train: The sample order of the training split.
        validation: The order of the validation split.
        report: Called with an event's name and values, on rank 0 only.
        beat: Called with the global step after each step.
    """

    def __init__(
        self,
        group: Group,
        training: Training,
        *,
        network: nn.Module,
        prepare: Prepare,
        objective: Objective,
        train: EpochOrder,
        validation: EpochOrder,
        checkpoints: Checkpoints,
        checkpoint_steps: int,
        report: Report,
        beat: Callable[[int], None],
    ) -> None:
        self.group, self.training, self.report, self.beat = group, training, report, beat
        self.network, self.prepare, self.objective = network, prepare, objective
        self.train, self.validation = train, validation
        self.checkpoints, self.checkpoint_steps = checkpoints, checkpoint_steps
        device_ids = [group.device.index] if group.device.type == "cuda" else None
        self.ddp = DistributedDataParallel(network, device_ids=device_ids, gradient_as_bucket_view=True)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        self.reader = Reader(train, rank=group.rank, world_size=group.world_size)
        self.epoch, self.step = 0, 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=group.device)
        self.history: list[dict[str, float]] = []
        self.best_loss, self.best_epoch = float("inf"), -1
        self.best = copy.deepcopy(network.state_dict())
        self.digests: dict[int, str] = {}
        self.usage = Usage()
        self._reported_at = time.monotonic()

    @property
    def global_step(self) -> int:
        return self.epoch * self.train.num_steps + self.step

    @property
    def finished(self) -> bool:
        waited = len(self.history) - 1 - self.best_epoch
        return self.epoch >= self.training.epochs or (self.best_epoch >= 0 and waited >= self.training.patience)

    def state(self) -> dict[str, Any]:
        """Everything that later steps depend on; every rank must call it at the same point."""
        self.digests = self.group.merge(self.reader.digests)
        [loss_sum] = self.group.sum(float(self.loss_sum))
        self.loss_sum.fill_(loss_sum if self.group.rank == 0 else 0.0)
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "epoch": self.epoch,
            "step": self.step,
            "order": self.train.fingerprint,
            "digests": self.digests,
            "loss_sum": loss_sum,
            "history": self.history,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, with any number of workers.

        Raises:
            InputError: The state was taken over another sample order.
        """
        if state["order"] != self.train.fingerprint:
            raise InputError(
                "The checkpoint was taken over other files than the pinned Delta version has now.",
                remedy="Remove the run's folder to start anew.",
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = {name: tensor.to(self.group.device) for name, tensor in state["best"].items()}
        self.best_loss, self.best_epoch = state["best_loss"], state["best_epoch"]
        self.epoch, self.step = state["epoch"], state["step"]
        self.history = list(state["history"])
        self.loss_sum.fill_(state["loss_sum"] if self.group.rank == 0 else 0.0)
        self.digests = dict(state["digests"])
        self.reader.digests.update({lane: self.digests[lane] for lane in self.reader.lanes})

    def fit(self) -> None:
        """Train to the last epoch or until validation stops improving; the best weights end in the network.

        Raises:
            Interrupted: A stop was asked for; a checkpoint holds the position.
        """
        while not self.finished:
            started = time.perf_counter()
            first_step = self.step
            self._train_epoch()
            train_seconds = time.perf_counter() - started
            self._end_epoch(first_step, train_seconds, started)
        self.network.load_state_dict(self.best)
        self.checkpoints.wait()
        self.reader.close()

    def _train_epoch(self) -> None:
        self.ddp.train()
        for batch in self.usage.watched(self.reader.epoch(self.epoch, first_step=self.step)):
            self._train_step(batch)
            self.step += 1
            self.beat(self.global_step)
            if self.step % _STOP_POLL_STEPS == 0:
                self._stop_if_asked()
            if self.global_step % self.checkpoint_steps == 0 and self.step < self.train.num_steps:
                self._save()
            self._report_progress()

    def _train_step(self, batch: Batch) -> None:
        torch.manual_seed(hash((self.training.seed, self.epoch, self.step, self.group.rank)) % (1 << 63))
        rows, total = len(batch.target), self.train.step_rows(self.step)
        features, target = self._on_device(batch if rows else _placeholder(batch))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(self.ddp(self.prepare(features)), target)
        # DDP averages over ranks: weighting by the rank's rows makes the gradient that of the whole step's mean.
        (loss * (rows * self.group.world_size / total)).backward()
        self.optimizer.step()
        self.loss_sum += loss.detach().double() * rows

    def _end_epoch(self, first_step: int, train_seconds: float, started: float) -> None:
        if self.epoch + 1 < self.training.epochs:
            self.reader.prepare(self.epoch + 1)
        validation_loss = self._validation_loss()
        [loss_sum] = self.group.sum(float(self.loss_sum))
        rows = sum(self.train.step_rows(step) for step in range(first_step, self.train.num_steps))
        if validation_loss < self.best_loss - _MIN_IMPROVEMENT:
            self.best_loss, self.best_epoch = validation_loss, self.epoch
            self.best = copy.deepcopy(self.network.state_dict())
        record = {
            "epoch": self.epoch,
            "step": (self.epoch + 1) * self.train.num_steps,
            "train_loss": loss_sum / self.train.split.rows,
            "validation_loss": validation_loss,
            "rows_per_s": rows / train_seconds,
            "seconds": time.perf_counter() - started,
        }
        self.history.append(record)
        self.epoch, self.step = self.epoch + 1, 0
        self.loss_sum.zero_()
        self._save()
        self.report("epoch", **record, best_epoch=self.best_epoch, epochs=self.training.epochs)

    def _validation_loss(self) -> float:
        self.network.eval()
        self.group.share(self.network.buffers())
        reader = Reader(self.validation, rank=self.group.rank, world_size=self.group.world_size)
        total = torch.zeros((), dtype=torch.float64)
        with torch.no_grad():
            for number, batch in enumerate(reader.epoch(0)):
                if len(batch.target):
                    features, target = self._on_device(batch)
                    loss = self.objective(self.network(self.prepare(features)), target)
                    total += loss.double().cpu() * len(batch.target)
                if number % _STOP_POLL_STEPS == 0:
                    self._stop_if_asked()
        reader.close()
        [loss_sum] = self.group.sum(float(total))
        loss = loss_sum / self.validation.split.rows
        if loss != loss:
            raise InputError(
                f"The validation loss is not a number after epoch {self.epoch}.",
                remedy="Lower the learning rate, or check the label and the features for extreme values.",
            )
        return loss

    def _on_device(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.group.device
        if device.type == "cpu":
            return batch.features, batch.target
        return (
            batch.features.pin_memory().to(device, non_blocking=True),
            batch.target.pin_memory().to(device, non_blocking=True),
        )

    def _stop_if_asked(self) -> None:
        if self.group.stop_requested():
            self._save(wait=True)
            raise Interrupted

    def _save(self, *, wait: bool = False) -> None:
        self.checkpoints.save(self.global_step, self.state(), wait=wait)
        self.report("checkpoint", step=self.global_step)

    def _report_progress(self) -> None:
        if self.group.rank == 0 and time.monotonic() - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = time.monotonic()
            share = self.global_step / (self.training.epochs * self.train.num_steps)
            self.report("progress", step=self.global_step, epoch=self.epoch, share=share)


def _placeholder(batch: Batch) -> Batch:
    """One row of zeros, weighed by nothing: a rank without rows still takes part in the gradient's reduction."""
    return Batch(batch.features.new_zeros((1, batch.features.shape[1])), batch.target.new_zeros((1, 1)))
