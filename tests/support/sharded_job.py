"""A rank of a sharded run: `python sharded_job.py FOLDER save|load`, with torchrun's variables in the environment.

`save` trains an FSDP network for three steps, saves it, and leaves its weights after one more in FOLDER/expected.pt.
`load` takes it up again on this many ranks, makes that step, and compares.
"""

import sys
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

from forecache.folders import LocalFolder
from forecache.training.worker.checkpoint.checkpoint import Checkpoints
from forecache.training.worker.distributed.group import Group

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def main() -> None:
    folder, what = Path(sys.argv[1]), sys.argv[2]
    group = Group("cpu")
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    if group.world_size > 1:
        fully_shard(network, mesh=init_device_mesh("cpu", (group.world_size,)))
    optimizer = torch.optim.AdamW(network.parameters())
    checkpoints = Checkpoints(LocalFolder(folder / "checkpoints"), group, inputs="sharded", keep=1)
    if what == "save":
        for step in range(3):
            train(network, optimizer, step)
        checkpoints.save(3, {**state_of(network, optimizer), "step": 3})
        train(network, optimizer, 3)  # goes on while the checkpoint is written
        checkpoints.wait()
        found, _ = checkpoints.latest(state_of(network, optimizer))
    else:
        found, _ = checkpoints.latest(state_of(network, optimizer))
    assert found is not None
    assert found["step"] == 3
    set_model_state_dict(network, found["network"])
    set_optimizer_state_dict(network, optimizer, found["optimizer"])
    train(network, optimizer, 3)
    whole = get_model_state_dict(network, options=_WHOLE)
    if what == "save" and group.rank == 0:
        torch.save(whole, folder / "expected.pt")
    elif group.rank == 0:
        for name, tensor in torch.load(folder / "expected.pt").items():
            torch.testing.assert_close(whole[name], tensor)
    group.close()


def train(network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    rows = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
    network(rows).square().mean().backward()
    optimizer.step()


def state_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"network": get_model_state_dict(network), "optimizer": get_optimizer_state_dict(network, optimizer)}


if __name__ == "__main__":
    main()
