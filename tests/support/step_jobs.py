"""What several ranks do in tests of the optimizer step and of the two ways to lay a network on them."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from forecache.base.folders import LocalFolder
from forecache.declare import Training
from forecache.plugins.torch.worker import group as group_module
from forecache.plugins.torch.worker.checkpoints import Checkpoints
from forecache.plugins.torch.worker.group import WorkerGroup
from forecache.plugins.torch.worker.loop import Stepper
from forecache.plugins.torch.worker.network import Objective, Prepare, Statistics
from forecache.plugins.torch.worker.parallel import Kind, ParallelNetwork, Precision, gather_weights
from forecache.plugins.torch.worker.reader import TrainingBatch

FEATURES = 5


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(FEATURES, 17), nn.ReLU(), nn.Linear(17, 8), nn.ReLU(), nn.Linear(8, 1))


def deep_network() -> nn.Module:
    """Of 4 MB, so that DDP exchanges it in several buckets."""
    torch.manual_seed(3)
    layers = [nn.Linear(FEATURES, 500), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Linear(500, 500), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(500, 1))


def prepare() -> Prepare:
    zeros = torch.zeros(FEATURES, dtype=torch.float64)
    return Prepare(torch.zeros(FEATURES, dtype=torch.bool), Statistics(zeros, zeros + 1, zeros))


def stepper_of(
    group: WorkerGroup, training: Training, kind: Kind, *, num_steps: int, pipeline: Any, deep: bool = False
) -> Stepper:
    precision = Precision(training.precision, group.device)
    return Stepper(
        group,
        training,
        model=ParallelNetwork(group, deep_network() if deep else network(), kind, precision.dtype),
        precision=precision,
        prepare=prepare(),
        objective=Objective(pipeline).to(group.device),
        num_steps=num_steps,
    )


def rows_of(number: int, rows: int) -> TrainingBatch:
    """The rows of a step, the same for any number of ranks."""
    generator = torch.Generator().manual_seed(number)
    features = torch.randn(rows, FEATURES, generator=generator)
    return TrainingBatch(torch.cat([features, (features.sum(dim=1, keepdim=True) > 0).float()], dim=1))


def share_of(batch: TrainingBatch, group: WorkerGroup) -> TrainingBatch:
    return TrainingBatch(batch.rows[group.rank :: group.world_size])


def take_steps(
    group: WorkerGroup,
    *,
    training: Training,
    kind: Kind = "ddp",
    rows: int = 30,
    first: int = 0,
    last: int = 6,
    num_steps: int = 6,
    load: Path | None = None,
    save: Path | None = None,
    overflow_on: int | None = None,
    deep: bool = False,
) -> dict[str, Any]:
    """Steps `first` to `last`; the weights afterwards on rank 0, and on each rank its shapes, rates, norms, exchanges.

    Args:
        load: Folder of the checkpoint to start from, of any number of ranks.
        save: Folder to save to afterwards.
        deep: Whether the network has several buckets.
        overflow_on: A rank whose rows of the first step make float16 overflow.
    """
    from sample_project.pipelines.visits import returns

    stepper = stepper_of(group, training, kind, num_steps=num_steps, pipeline=returns, deep=deep)
    exchanges = _count_exchanges(stepper.model)
    if load is not None:
        state, _ = checkpoints_in(load, group).load_latest(stepper.layout())
        assert state is not None
        stepper.load(state)
    if training.compile:
        stepper.model.network.compile()
    losses, norms, rates = [], [], []
    for number in range(first, last):
        stepper.model.forward.train()
        mine = share_of(rows_of(number, rows), group)
        if number == first and overflow_on == group.rank:
            mine = TrainingBatch(torch.cat([mine.features * 1e4, 1 - mine.target], dim=1))
        loss = stepper.step(mine, number=number, rows=rows)
        losses.append(group.sum(float(loss))[0] / rows)
        norms.append(None if stepper.gradient_norm is None else float(stepper.gradient_norm))
        rates.append(stepper.learning_rate)
    if save is not None:
        checkpoints_in(save, group).save(last, stepper.state(), wait=True)
    return {
        "weights": gather_weights(stepper.model.network),
        "local": {name: tuple(_local(tensor).shape) for name, tensor in stepper.model.weights().items()},
        "losses": losses,
        "norms": norms,
        "rates": rates,
        "exchanges": exchanges,
        "scaler": stepper.precision.scaler.state_dict(),
        "precision": stepper.precision.name,
        "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"] if training.compile else 0,
    }


def take_all(group: WorkerGroup, *, runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`take_steps` for each of several runs, by name."""
    return {name: take_steps(group, **arguments) for name, arguments in runs.items()}


def let_first_work(group: WorkerGroup, *, seconds: float) -> tuple[Any, Any]:
    """What ranks get of two calls by rank 0, the first of which takes longer than any collective may."""
    group_module._PULSE_S = 0.3
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds / 2), dist.group.WORLD)  # type: ignore[attr-defined]

    def work() -> str:
        time.sleep(seconds)
        return f"by rank {group.rank}"

    return group.run_on_rank_0(work), group.run_on_rank_0(lambda: None)


def checkpoints_in(folder: Path, group: WorkerGroup) -> Checkpoints:
    return Checkpoints(LocalFolder(folder), group, inputs="steps", keep=1)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _count_exchanges(model: ParallelNetwork) -> list[int]:
    """Counts DDP's exchanges of gradients; one bucket holds the whole small network."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn.parallel import DistributedDataParallel

    count = [0]

    def counted(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        count[0] += 1
        return allreduce_hook(None, bucket)

    if isinstance(model.forward, DistributedDataParallel):
        model.forward.register_comm_hook(None, counted)
    return count
