"""A training function of the user's own: what it gets of a run, and how what it returns goes on like the loop's."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from forecache.errors import InputError
from forecache.training.worker.distributed.parallel import State, whole_weights
from forecache.training.worker.loop.session import MakeState, Session


class FitRun:
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

    def __init__(self, session: Session, build: Callable[[int], nn.Module], num_features: int) -> None:
        self._session, self._build, self.num_features = session, build, num_features
        self.device, self.training = session.group.device, session.training
        self.rank, self.world_size = session.group.rank, session.group.world_size
        self.num_rows, self.num_steps = session.train.split.rows, session.train.num_steps
        self.restored: dict[str, Any] | None = None
        self._make_state: MakeState = dict

    @property
    def epoch(self) -> int:
        """The epoch that comes next, or that the run resumes in, from 0."""
        return self._session.epoch

    @property
    def history(self) -> list[dict[str, float]]:
        """A record for each epoch that has ended, with `train_loss` and `validation_loss`."""
        return list(self._session.history)

    def build(self) -> nn.Module:
        """The declared network, equal on every rank, on the device."""
        torch.manual_seed(self.training.seed)
        return self._build(self.num_features).to(self.device)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's share of each step that is left of the epoch; `step_done` has to follow each.

        Random numbers are seeded for each step, so that a resumed run draws the same.

        Yields:
            Features float32 [n, num_features], scaled and without nulls, and labels float32 [n, 1]. A rank's share can
            have a row more or less than another's, and none where a step has few rows; all ranks' are `step_rows`.
        """
        session = self._session
        for batch in session.batches():
            here = batch.on(self.device)
            yield session.prepare(here.features), here.target

    @property
    def step_rows(self) -> int:
        """Rows of the current step over all ranks."""
        return self._session.train.step_rows(self._session.step)

    def loss(self, output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The declared loss of outputs [n, 1] against labels [n, 1], a scalar mean."""
        loss: torch.Tensor = self._session.objective(output, label)
        return loss

    def step_done(self, make_state: MakeState) -> None:
        """Count a step; a checkpoint is written where it is due, and where the run was asked to stop it ends here.

        Args:
            make_state: Called for a checkpoint; returns what the function needs to go on, tensors and plain values in
                dictionaries and lists. Rank 0's is kept; of DTensors each rank's shard.
        """
        self._session.step_done(lambda: {"own": make_state()})

    def end_epoch(self, network: nn.Module, make_state: MakeState, *, train_loss: float) -> float:
        """Evaluate the network, record the epoch and save; returns the validation loss over all ranks.

        Args:
            train_loss: For the record; the mean over the epoch.
        """
        session, self._make_state = self._session, make_state
        validation_loss = session.validation_loss(network, lambda: {"own": make_state()})
        record = session.record_epoch(train_loss, validation_loss)
        session.save(lambda: {"own": make_state()})
        session.report("epoch", **record, epochs=max(self.training.epochs, session.epoch))
        return validation_loss

    def sum(self, *values: float) -> list[float]:
        """The sums of values over all ranks."""
        return self._session.group.sum(*values)


class OwnLoop:
    """Trains by a declared function instead of `Loop`."""

    def __init__(
        self,
        session: Session,
        fit: Callable[[FitRun], nn.Module],
        *,
        build: Callable[[int], nn.Module],
        num_features: int,
    ) -> None:
        self.session, self._fit = session, fit
        self.run = FitRun(session, build, num_features)
        self.best_loss, self.best_epoch = float("inf"), -1

    def layout(self) -> None:
        """The function lays what it restores by itself."""

    def load(self, state: dict[str, Any]) -> None:
        """Continue where a checkpoint was taken."""
        self.session.restore(state)
        self.run.restored = state["own"]

    def fit(self) -> State:
        """Call the function; returns the weights of the network it returned, whole on rank 0.

        Raises:
            InputError: It ended no epoch.
            Interrupted: A stop was asked for; a checkpoint holds the position.
        """
        network = self._fit(self.run)
        losses = [record["validation_loss"] for record in self.session.history]
        if not losses:
            raise InputError(
                f"The training function {self._fit.__qualname__!r} returned without `run.end_epoch`.",
                remedy="Call it after each pass over `run.batches()`.",
            )
        self.best_epoch = losses.index(min(losses))
        self.best_loss = self.session.validation_loss(network, lambda: {"own": self.run._make_state()})
        return whole_weights(network)

    def described(self) -> dict[str, Any]:
        """For the run's result."""
        return {"fit": f"{self._fit.__module__}.{self._fit.__qualname__}"}
