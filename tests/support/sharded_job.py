"""What each rank of a sharded run does: save a network's state, and take it up again on another number of ranks."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from forecache.base.folders import LocalFolder
from forecache.plugins.torch.worker.checkpoints import Checkpoints
from forecache.plugins.torch.worker.group import WorkerGroup

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save(group: WorkerGroup, place: Path) -> None:
    """Train an FSDP network for three steps, save it, and leave its weights after one more in expected.pt."""
    network, optimizer, checkpoints = prepared(group, place)
    for step in range(3):
        train(network, optimizer, step)
    checkpoints.save(3, {**state_of(network, optimizer), "step": 3})
    train(network, optimizer, 3)  # goes on while the checkpoint is written
    checkpoints.wait()
    whole = go_on(network, optimizer, checkpoints)
    if group.rank == 0:
        torch.save(whole, place / "expected.pt")


def load(group: WorkerGroup, place: Path) -> None:
    """Take it up again on these ranks, make that step, and compare."""
    network, optimizer, checkpoints = prepared(group, place)
    whole = go_on(network, optimizer, checkpoints)
    if group.rank == 0:
        for name, tensor in torch.load(place / "expected.pt").items():
            torch.testing.assert_close(whole[name], tensor)


def prepared(group: WorkerGroup, place: Path) -> tuple[nn.Module, torch.optim.Optimizer, Checkpoints]:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    if group.world_size > 1:
        fully_shard(network, mesh=init_device_mesh("cpu", (group.world_size,)))
    checkpoints = Checkpoints(LocalFolder(place / "checkpoints"), group, inputs="sharded", keep=1)
    return network, torch.optim.AdamW(network.parameters()), checkpoints


def go_on(network: nn.Module, optimizer: torch.optim.Optimizer, checkpoints: Checkpoints) -> dict[str, Any]:
    """The weights after the step that follows the newest checkpoint."""
    found, _ = checkpoints.load_latest(state_of(network, optimizer))
    assert found is not None
    assert found["step"] == 3
    set_model_state_dict(network, found["network"])
    set_optimizer_state_dict(network, optimizer, found["optimizer"])
    train(network, optimizer, 3)
    return get_model_state_dict(network, options=_WHOLE)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    rows = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
    network(rows).square().mean().backward()
    optimizer.step()


def state_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"network": get_model_state_dict(network), "optimizer": get_optimizer_state_dict(network, optimizer)}
