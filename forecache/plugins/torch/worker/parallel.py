"""The network on all ranks: replicated (DDP) or sharded (FSDP2), and the precision that it computes in.

It is sharded if it does not fit on one device.

Its state is keyed by parameter name, and each rank saves and loads its shards: a checkpoint of either kind resumes as
the other, with any number of workers. Only the trained weights are gathered, on rank 0's host, for the export.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

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
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from forecache.base.errors import SettingsError
from forecache.plugins.torch.worker.group import WorkerGroup

Kind = Literal["ddp", "fsdp"]
State = dict[str, Any]

_COPIES = 5  # weights, gradient, AdamW's two moments, the best weights
_USABLE_SHARE = 0.7  # the rest is for activations and the library's own memory
_UNITS = 8
_LARGEST_UNIT = 100_000_000
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(frozen=True)
class Placement:
    """Distribution of a network over the ranks, and the figures that decided it, in bytes per device."""

    kind: Kind
    needed_bytes: int
    device_bytes: int


def choose_placement(network: nn.Module, group: WorkerGroup, declared: Literal["auto", "ddp", "fsdp"]) -> Placement:
    """The declared kind; for "auto" FSDP if five copies of the parameters exceed 70% of the smallest device's memory.

    Every rank must call it at the same point.
    """
    needed = _COPIES * sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    device = -int(group.maximum(-float(_device_bytes(group)))[0])
    return Placement(declared if declared != "auto" else _choose_kind(needed, device, group.world_size), needed, device)


def _choose_kind(needed_bytes: int, device_bytes: int, world_size: int) -> Kind:
    return "fsdp" if world_size > 1 and needed_bytes > _USABLE_SHARE * device_bytes else "ddp"


def _device_bytes(group: WorkerGroup) -> int:
    if group.device.type == "cuda":
        return int(torch.cuda.get_device_properties(group.device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // int(os.environ["LOCAL_WORLD_SIZE"])


class ParallelNetwork:
    """A network that all ranks train together.

    Args:
        network: Built on the CPU, equal on every rank; it, or this rank's shard, is moved to the group's device.
        dtype: Type in which FSDP gathers shards to compute with them; the shards themselves stay float32.

    Attributes:
        network: The module with this rank's parameters, for evaluation.
        forward: The module to call in a training step, which averages gradients over the ranks.
    """

    def __init__(self, group: WorkerGroup, network: nn.Module, kind: Kind, dtype: torch.dtype = torch.float32) -> None:
        self.group, self.kind = group, kind
        self.network: nn.Module = network if kind == "fsdp" else network.to(group.device)
        self.forward: nn.Module
        if kind == "fsdp":
            _shard(network, group, dtype)
            self.forward = network
        else:
            device_ids = [group.device.index] if group.device.type == "cuda" else None
            # Looking for unused parameters keeps DDP from rebuilding its buckets after the first step: a sum over three
            # or more ranks depends on a value's position in its bucket, and a resumed run has its own first step.
            self.forward = DistributedDataParallel(
                network, device_ids=device_ids, gradient_as_bucket_view=True, find_unused_parameters=True
            )

    def part_context(self, *, last: bool) -> AbstractContextManager[None]:
        """Context for forward and backward of a part of a step: DDP exchanges the parts' sum once, with the last part.

        FSDP reduces each part's gradient to its shard, because the device cannot hold whole gradients.
        """
        if isinstance(self.forward, DistributedDataParallel) and not last:
            return self.forward.no_sync()
        return nullcontext()

    def clip_gradient(self, max_norm: float) -> torch.Tensor:
        """Scale the gradient down to a global norm; returns the norm before scaling, float32 []."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def weights(self) -> State:
        """A copy of this rank's weights, shards under FSDP."""
        return {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def state(self, optimizer: torch.optim.Optimizer) -> tuple[State, State]:
        """The network's and the optimizer's state by parameter name, shards under FSDP."""
        if self.kind == "ddp" and optimizer.state:
            return self.network.state_dict(), self._name_parameters(
                optimizer.state_dict()
            )  # equal to the line below, at a tenth of the cost
        return get_model_state_dict(self.network), get_optimizer_state_dict(self.network, optimizer)

    def _name_parameters(self, state: State) -> State:
        """An optimizer's state with the names of parameters in place of their numbers."""
        names = [name for name, _ in self.network.named_parameters()]
        return {
            "state": {names[number]: values for number, values in state["state"].items()},
            "param_groups": [
                {**group, "params": [names[number] for number in group["params"]]} for group in state["param_groups"]
            ],
        }

    def load(self, network: State) -> None:
        """Load weights that are laid out like the network's."""
        set_model_state_dict(self.network, network)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: State) -> None:
        """Load an optimizer's state that is laid out like the network's."""
        set_optimizer_state_dict(self.network, optimizer, state)


def gather_weights(network: nn.Module) -> State:
    """The weights of a network in any wrapper by name, whole on the CPU of rank 0, empty elsewhere."""
    return get_model_state_dict(network, options=_WHOLE)


def _shard(network: nn.Module, group: WorkerGroup, dtype: torch.dtype) -> None:
    """Divide the network into FSDP units: while a unit computes, only its parameters are gathered on a device.

    A unit is a layer of a `ModuleList` or `Sequential` that has at least an eighth of the parameters, or 100 million.
    The network calls such a layer as a whole. The remaining parameters are one more unit.
    """
    mesh = init_device_mesh(group.device.type, (group.world_size,))
    # A unit is gathered, and kept for the backward pass, in the type that it computes in; the ranks' gradients are
    # summed in float32.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    least = min(_LARGEST_UNIT, sum(parameter.numel() for parameter in network.parameters()) // _UNITS)
    taken: set[nn.Parameter] = set()
    for layer in _layers(network):
        own = set(layer.parameters()) - taken
        if sum(parameter.numel() for parameter in own) >= max(1, least):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
            taken |= set(layer.parameters())
    fully_shard(network, mesh=mesh, mp_policy=policy)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Layers of containers at any depth, inner ones first."""
    for child in module.children():
        yield from _layers(child)
        if isinstance(module, nn.ModuleList | nn.Sequential) and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield child


DeclaredPrecision = Literal["auto", "float32", "bfloat16", "float16"]


class Precision:
    """The type of a run's forward and backward passes; weights, gradients and optimizer state stay float32.

    FSDP gathers shards in that type, so that autocast need not copy the weights; it still casts each operation's inputs
    to one type.

    Args:
        declared: "auto" is bfloat16 on a GPU that supports it, float32 otherwise.

    Attributes:
        name: The chosen type.
        scaler: Scales the loss in float16, where gradients would underflow; does nothing in other types.

    Raises:
        SettingsError: bfloat16 is declared and the GPU does not support it.
    """

    def __init__(self, declared: DeclaredPrecision, device: torch.device) -> None:
        supported = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        if declared == "bfloat16" and not supported:
            raise SettingsError(
                f"`Training` has precision='bfloat16', which {torch.cuda.get_device_name(device)} does not support.",
                remedy="Declare 'auto', or 'float16', which scales the loss.",
            )
        if declared == "auto":
            declared = "bfloat16" if device.type == "cuda" and supported else "float32"
        self.name, self._device = declared, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=declared == "float16")

    @property
    def dtype(self) -> torch.dtype:
        return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.name, torch.float32)

    def autocast(self) -> AbstractContextManager[None]:
        """Context for a forward pass of the network."""
        enabled = self.name != "float32"
        return torch.autocast(self._device.type, dtype=self.dtype if enabled else torch.bfloat16, enabled=enabled)
