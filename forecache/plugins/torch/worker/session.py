"""The state of a training on one rank between steps, and the resources that the rank uses."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from forecache.base.errors import InputError
from forecache.declare import Training
from forecache.declare.models.model import MakeState
from forecache.plugins.torch.worker.checkpoints import Checkpoints
from forecache.plugins.torch.worker.network import Objective, Prepare
from forecache.plugins.torch.worker.parallel import StopPoll, WorkerGroup
from forecache.plugins.torch.worker.reader import BatchReader, EpochOrder, TrainingBatch


class Usage:
    """Measures this process from the object's creation on."""

    def __init__(self) -> None:
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        self.training_s = self.stall_s = 0.0

    def time_batches(self, batches: Iterator[TrainingBatch]) -> Iterator[TrainingBatch]:
        """The same batches; waiting for a batch counts as `stall_s`, waiting and training together as `training_s`."""
        asked = time.perf_counter()
        for batch in batches:
            ready = time.perf_counter()
            yield batch
            self.stall_s += ready - asked
            self.training_s += time.perf_counter() - asked
            asked = time.perf_counter()

    def summarize(self, group: WorkerGroup) -> dict[str, Any]:
        """Figures over all ranks; every rank must call it at the same point.

        `attempt_s` is of this attempt's longest rank, `cpu_share` processor time over wall time and threads,
        `stall_share` the share of the steps' time spent waiting for data, `peak_memory_bytes` and
        `peak_device_memory_bytes` of the rank that used most.
        """
        wall, on_gpu = time.perf_counter() - self._started, group.device.type == "cuda"
        unit = 1 if sys.platform == "darwin" else 1024
        mine = {
            "wall": wall,
            "cpu": (time.process_time() - self._cpu_started) / (wall * torch.get_num_threads()),
            "stall": self.stall_s / max(self.training_s, 1e-9),
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
            "device_peak": torch.cuda.max_memory_allocated(group.device) if on_gpu else 0,
        }
        ranks = list(group.merge({group.rank: mine}).values())
        device_memory = torch.cuda.get_device_properties(group.device).total_memory if on_gpu else 0
        return {
            "attempt_s": max(rank["wall"] for rank in ranks),
            "cpu_share": sum(rank["cpu"] for rank in ranks) / len(ranks),
            "stall_share": sum(rank["stall"] for rank in ranks) / len(ranks),
            "peak_memory_bytes": max(rank["peak"] for rank in ranks),
            "peak_device_memory_bytes": max(rank["device_peak"] for rank in ranks),
            "device_memory_bytes": device_memory,
            "machine_memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        }


Report = Callable[..., None]


class RunInterruption(Exception):
    """Ends a run that got SIGTERM, after its position was written to disk."""


class TrainingSession:
    """One run on this rank; every rank calls the same methods at the same points.

    Between checkpoints are `checkpoint_steps`; another one is written at the end of each epoch. `report` gets an
    event's name and values, and does nothing on ranks other than 0; `beat` the global step after each step. Step `step`
    of epoch `epoch`, both from 0, comes next; `history` has a record per epoch.
    """

    def __init__(
        self,
        group: WorkerGroup,
        training: Training,
        *,
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
        self.prepare, self.objective = prepare, objective
        self.train, self.validation = train, validation
        self.checkpoints, self.checkpoint_steps = checkpoints, checkpoint_steps
        self.reader = BatchReader(train, rank=group.rank, world_size=group.world_size)
        self.epoch, self.step = 0, 0
        self.history: list[dict[str, float]] = []
        self.digests: dict[int, str] = {}
        self.usage = Usage()
        self._stop = StopPoll(group)
        self._first_step, self._epoch_started, self._trained_s = 0, 0.0, 0.0

    @property
    def global_step(self) -> int:
        return self.epoch * self.train.num_steps + self.step

    def position(self) -> dict[str, Any]:
        """The state that a resumed run needs besides the network's and the optimizer's."""
        self.digests = self.group.merge(self.reader.digests)
        return {
            "epoch": self.epoch,
            "step": self.step,
            "order": self.train.fingerprint,
            "digests": self.digests,
            "history": self.history,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from a position that any number of ranks saved; InputError if it belongs to another sample order."""
        if state["order"] != self.train.fingerprint:
            raise InputError(
                "The checkpoint belongs to other data files than the pinned Delta version has now.",
                remedy="Remove the run's folder to start anew.",
            )
        self.epoch, self.step = state["epoch"], state["step"]
        self.history = list(state["history"])
        self.digests = dict(state["digests"])
        self.reader.digests.update({lane: self.digests[lane] for lane in self.reader.lanes})

    def batches(self) -> Iterator[TrainingBatch]:
        """This rank's remaining batches of the epoch; call `step_done` after each.

        Random number generators are seeded before each batch.
        """
        self._stop = StopPoll(self.group)
        self._first_step, self._epoch_started = self.step, time.perf_counter()
        for batch in self.usage.time_batches(self.reader.epoch(self.epoch, first_step=self.step)):
            self._seed_step()
            yield batch
        self._trained_s = time.perf_counter() - self._epoch_started

    def _seed_step(self) -> None:
        """Seed this rank's random number generators for the step, so that a resumed run draws the same numbers."""
        seed = hash((self.training.seed, self.epoch, self.step, self.group.rank)) % (1 << 63)
        # `torch.manual_seed` records a stack trace for each missing kind of device: a fifth of a small step's time.
        torch.default_generator.manual_seed(seed)
        if self.group.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def step_done(self, make_state: MakeState) -> None:
        """Count a step, and save a checkpoint when one is due; Interrupted, with the position saved, if asked to
        stop."""
        self.step += 1
        self.beat(self.global_step)
        self._stop_if_signalled(self._stop, make_state)
        if self.global_step % self.checkpoint_steps == 0 and self.step < self.train.num_steps:
            self.save(make_state)

    def validation_loss(self, network: nn.Module, make_state: MakeState) -> float:
        """The mean loss over the validation split, which all ranks compute together; InputError if it is not a number,
        Interrupted, with the position before the evaluation saved, if asked to stop."""
        network.eval()
        self.group.copy_from_rank_0(network.buffers())
        reader = BatchReader(self.validation, rank=self.group.rank, world_size=self.group.world_size)
        total, stop = torch.zeros((), dtype=torch.float64), StopPoll(self.group)
        try:
            for batch in reader.epoch(0):
                with torch.no_grad():
                    here = batch.or_placeholder().on(self.group.device)
                    # FSDP computes in the training's precision here, too; the loss is float32 as in a step.
                    loss = self.objective(network(self.prepare(here.features)).float(), here.target)
                if len(batch):
                    total += loss.double().cpu() * len(batch)
                self._stop_if_signalled(stop, make_state)
        finally:
            reader.close()
        [loss_sum] = self.group.sum(float(total))
        mean = loss_sum / self.validation.split.rows
        if mean != mean:
            raise InputError(
                f"The validation loss is not a number after epoch {self.epoch}.",
                remedy="Lower the learning rate, or check the label and the features for extreme values.",
            )
        return mean

    def record_epoch(self, train_loss: float, validation_loss: float) -> dict[str, float]:
        """Add an epoch to the history and move on to the next one."""
        rows = sum(self.train.step_rows(step) for step in range(self._first_step, self.train.num_steps))
        record = {
            "epoch": self.epoch,
            "step": (self.epoch + 1) * self.train.num_steps,
            "train_loss": train_loss,
            "validation_loss": validation_loss,
            "rows_per_s": rows / max(self._trained_s, 1e-9),
            "seconds": time.perf_counter() - self._epoch_started,
        }
        self.history.append(record)
        self.end_epoch()
        return record

    def end_epoch(self) -> None:
        """Move on to the next epoch."""
        self.epoch, self.step = self.epoch + 1, 0

    def save(self, make_state: MakeState, *, wait: bool = False) -> None:
        """Write a checkpoint of the position and of what `make_state` returns; returns before it is on disk."""
        self.checkpoints.save(self.global_step, {**self.position(), **make_state()}, wait=wait)
        self.report("checkpoint", step=self.global_step)

    def _stop_if_signalled(self, stop: StopPoll, make_state: MakeState) -> None:
        if stop.should_stop():
            self.save(make_state, wait=True)
            raise RunInterruption
