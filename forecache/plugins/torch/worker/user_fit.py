"""Training by a declared function: what it is given, and the position at which it can be resumed."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from forecache.base.errors import InputError
from forecache.declare.models.model import FitRun, MakeState
from forecache.plugins.torch.worker.parallel import State, gather_weights
from forecache.plugins.torch.worker.session import TrainingSession


class RankRun:
    """The `FitRun` that is passed to the user's function."""

    def __init__(self, session: TrainingSession, build: Callable[[int], nn.Module], num_features: int) -> None:
        self._session, self._build, self.num_features = session, build, num_features
        self.device, self.training = session.group.device, session.training
        self.rank, self.world_size = session.group.rank, session.group.world_size
        self.num_rows, self.num_steps = session.train.split.rows, session.train.num_steps
        self.restored: dict[str, Any] | None = None
        self._make_state: MakeState = dict

    @property
    def epoch(self) -> int:
        return self._session.epoch

    @property
    def history(self) -> list[dict[str, float]]:
        return list(self._session.history)

    def build(self) -> nn.Module:
        torch.manual_seed(self.training.seed)
        return self._build(self.num_features).to(self.device)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        session = self._session
        for batch in session.batches():
            here = batch.on(self.device)
            yield session.prepare(here.features), here.target

    @property
    def step_rows(self) -> int:
        return self._session.train.step_rows(self._session.step)

    def loss(self, output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self._session.objective(output, label)
        return loss

    def step_done(self, make_state: MakeState) -> None:
        self._session.step_done(lambda: {"own": make_state()})

    def end_epoch(self, network: nn.Module, make_state: MakeState, *, train_loss: float) -> float:
        session, self._make_state = self._session, make_state
        validation_loss = session.validation_loss(network, lambda: {"own": make_state()})
        record = session.record_epoch(train_loss, validation_loss)
        session.save(lambda: {"own": make_state()})
        session.report("epoch", **record, epochs=max(self.training.epochs, session.epoch))
        return validation_loss

    def sum(self, *values: float) -> list[float]:
        return self._session.group.sum(*values)


class UserFitLoop:
    """Trains with a declared function instead of the built-in training loop."""

    def __init__(
        self,
        session: TrainingSession,
        fit: Callable[[FitRun], nn.Module],
        *,
        build: Callable[[int], nn.Module],
        num_features: int,
    ) -> None:
        self.session, self._fit = session, fit
        self.run = RankRun(session, build, num_features)
        self.best_loss, self.best_epoch = float("inf"), -1

    is_finished = False  # the function goes on by itself

    def layout(self) -> None:
        """None: the function restores its state itself."""

    def load(self, state: dict[str, Any]) -> None:
        self.session.restore(state)
        self.run.restored = state["own"]

    def fit(self) -> State:
        """Call the function; returns the weights of the network it returned, whole on rank 0. InputError if it ended no
        epoch, Interrupted if asked to stop: a checkpoint has the position."""
        network = self._fit(self.run)
        losses = [record["validation_loss"] for record in self.session.history]
        if not losses:
            raise InputError(
                f"The training function {self._fit.__qualname__!r} returned without `run.end_epoch`.",
                remedy="Call it after each pass over `run.batches()`.",
            )
        self.best_epoch = losses.index(min(losses))
        self.best_loss = self.session.validation_loss(network, lambda: {"own": self.run._make_state()})
        return gather_weights(network)

    def result_entries(self) -> dict[str, Any]:
        return {"fit": f"{self._fit.__module__}.{self._fit.__qualname__}"}
