"""Pack a state into few tensors and a description: DTensors by their path, all plain tensors as one byte buffer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

PLAIN = "plain"


@dataclass(frozen=True)
class Description:
    """A state without the content of its tensors.

    Attributes:
        state: The nested structure, with None for each tensor, and lists for tuples.
        tensors: The type and the shape of the tensor at each path.
        sharded: Paths of the DTensors.
    """

    state: Any
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    sharded: list[str]

    def empty(self, path: str) -> Tensor:
        """An uninitialised CPU tensor with the dtype and shape of the one at the path."""
        dtype, shape = self.tensors[path]
        return torch.empty(shape, dtype=dtype)


def is_sharded(state: Any) -> bool:
    """True if a state contains a DTensor."""
    return any(isinstance(tensor, DTensor) for tensor in _tensors(state).values())


def pack(state: Any) -> tuple[Description, dict[str, Tensor]]:
    """Describe a state and copy its tensors to the CPU.

    Args:
        state: Nested dictionaries, lists and tuples of tensors, DTensors and plain values.

    Returns:
        The description; DTensors by path, and the bytes of all other tensors as PLAIN, uint8 [num_bytes].
    """
    found = _tensors(state)
    sharded = {path: tensor for path, tensor in found.items() if isinstance(tensor, DTensor)}
    plain = {path: tensor for path, tensor in found.items() if path not in sharded}
    buffer = torch.empty(_num_bytes(plain), dtype=torch.uint8)
    start = 0
    for tensor in plain.values():
        content = tensor.detach().reshape(-1).view(torch.uint8)
        buffer[start : start + len(content)].copy_(content)
        start += len(content)
    described = _map_tensors(state, lambda path, _: None)
    types = {path: (tensor.dtype, tuple(tensor.shape)) for path, tensor in found.items()}
    copies = {path: tensor.detach().to("cpu", copy=True) for path, tensor in sharded.items()}
    return Description(described, types, list(sharded)), {**copies, PLAIN: buffer}


def unpack(description: Description, load: Callable[[dict[str, Tensor]], None], like: Any = None) -> Any:
    """Rebuild a state from its description, on the CPU.

    Args:
        load: Fills tensors as `pack` returned them.
        like: A state whose DTensors define the sharding of the tensors at their paths; they are filled and returned.
    """
    wanted = {path: tensor for path, tensor in _tensors(like).items() if isinstance(tensor, DTensor)}
    plain = {path: description.empty(path) for path in description.tensors if path not in description.sharded}
    shards = {path: wanted[path] if path in wanted else description.empty(path) for path in description.sharded}
    buffer = torch.empty(_num_bytes(plain), dtype=torch.uint8)
    load({**shards, PLAIN: buffer})
    tensors, start = dict(shards), 0
    for path, tensor in plain.items():
        content = tensor.reshape(-1).view(torch.uint8)
        content.copy_(buffer[start : start + len(content)])
        start += len(content)
        layout = wanted.get(path)
        if layout is not None:
            tensor = distribute_tensor(tensor, layout.device_mesh, layout.placements, src_data_rank=None)
        tensors[path] = tensor
    return _fill_tensors(description.state, tensors)


def _num_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _map_tensors(value: Any, change: Callable[[str, Tensor], Any], path: str = "") -> Any:
    """The same nested structure with every tensor changed; a tensor's path consists of keys and positions."""
    if isinstance(value, Tensor):
        return change(path, value)
    if isinstance(value, dict):
        return {key: _map_tensors(item, change, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_tensors(item, change, f"{path}/{position}") for position, item in enumerate(value)]
    return value


def _fill_tensors(value: Any, tensors: Mapping[str, Tensor], path: str = "") -> Any:
    """The same nested structure with the tensors at their paths."""
    if path in tensors:
        return tensors[path]
    if isinstance(value, dict):
        return {key: _fill_tensors(item, tensors, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_tensors(item, tensors, f"{path}/{position}") for position, item in enumerate(value)]
    return value


def _tensors(value: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    _map_tensors(value, lambda path, tensor: found.update({path: tensor}))
    return found
