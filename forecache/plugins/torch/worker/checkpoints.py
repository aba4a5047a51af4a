"""Atomic checkpoints: one directory per step, with a marker file, written last, that lists every file's SHA-256.

A directory's name ends in a token of the process group that writes it, and a group deletes only its own directories and
those that existed when it began. So a group that was suspended, and lost its lease without noticing, neither overwrites
nor deletes anything of the group that took over.

Tensors are written with `torch.distributed.checkpoint` (DCP): each rank writes its shards of a DTensor. Plain tensors
are equal on every rank and are written as one buffer, because DCP takes 0.4 ms per tensor; without DTensors rank 0
writes alone. Values that are not tensors are in `state.pt`.

A thread of this module writes a copy of the state. DCP's `async_save` is not used, because its completion on one rank
says nothing about the others' files; the thread here gathers every rank's checksums and then commits.
"""

import hashlib
import io
import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from forecache.base.errors import ForecacheError, UnavailableError
from forecache.base.folders import Folder
from forecache.plugins.torch.worker.parallel import WorkerGroup
from forecache.plugins.torch.worker.shards import load_shards, save_shards

PLAIN = "plain"


@dataclass(frozen=True)
class Description:
    """A state without the content of its tensors."""

    state: Any  # the nested structure, with None for each tensor, and lists for tuples
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]]  # the type and the shape of the tensor at each path
    sharded: list[str]  # paths of the DTensors

    def empty(self, path: str) -> Tensor:
        """An uninitialised CPU tensor with the dtype and shape of the one at the path."""
        dtype, shape = self.tensors[path]
        return torch.empty(shape, dtype=dtype)


def is_sharded(state: Any) -> bool:
    return any(isinstance(tensor, DTensor) for tensor in _tensors(state).values())


def pack(state: Any) -> tuple[Description, dict[str, Tensor]]:
    """Describe a state (nested dictionaries, lists and tuples of tensors, DTensors and plain values) and copy its
    tensors to the CPU: DTensors by path, and the bytes of all other tensors as PLAIN, uint8 [num_bytes]."""
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
    """Rebuild a state on the CPU; `load` fills tensors as `pack` returned them. The DTensors of `like` define the
    sharding of the tensors at their paths; they are filled and returned."""
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


MARKER = "COMMITTED"
_STATE = "state.pt"


class Checkpoints:
    """The checkpoints of one run; every rank has one and calls each method at the same point.

    A checkpoint with other `inputs` is refused; the newest committed ones are kept.
    """

    def __init__(self, files: Folder, group: WorkerGroup, *, inputs: str, keep: int) -> None:
        self.files, self.group, self.inputs, self.keep = files, group, inputs, keep
        # With the default of 5 ms the writing thread would delay every training step.
        sys.setswitchinterval(0.0005)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._writers: dist.ProcessGroup | None = None
        self._last = ""
        self._token: str = group.broadcast(secrets.token_hex(4) if group.rank == 0 else None)
        self._found: set[str] | None = None

    def save(self, step: int, state: dict[str, Any], *, wait: bool = False) -> None:
        """Write a state, as of `pack`, as a checkpoint; returns before it is durable unless `wait`. UnavailableError if
        the checkpoint before this one, or with `wait` this one, could not be written."""
        self.wait()
        sharded = is_sharded(state)
        if sharded and self._writers is None:
            # The training's collectives use the default group meanwhile.
            self._writers = dist.new_group(backend="gloo")
        if sharded or self.group.rank == 0:
            writers = self._writers if sharded else None
            self._pending = self._pool.submit(self._write, step, self._next_folder(step), *pack(state), writers)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Block until the last checkpoint is durable; UnavailableError if it could not be written: the one before it
        remains."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def load_latest(self, like: dict[str, Any] | None = None) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest complete checkpoint, on the CPU, and a sentence for each newer one that is incomplete or damaged.

        The DTensors of `like` define the sharding to load into, whatever number of ranks saved the checkpoint; they are
        filled and returned. ForecacheError if the checkpoint belongs to a run with other inputs.
        """
        folder, refused = self.group.run_on_rank_0(self._find_newest)
        self._last = folder
        return (self._load(folder, like) if folder else None), refused

    def _find_newest(self) -> tuple[str, list[str]]:
        refused: list[str] = []
        names = self._list_names()
        for folder in sorted({name.split("/")[0] for name in names if name.startswith("step-")}, reverse=True):
            if f"{folder}/{MARKER}" not in names:
                refused.append(f"checkpoint {folder} is skipped: it was never committed")
                continue
            try:
                marker = json.loads(self._content(f"{folder}/{MARKER}"))
            except ValueError:
                refused.append(f"checkpoint {folder} is skipped: its marker cannot be read")
                continue
            if marker["inputs"] != self.inputs:
                raise ForecacheError(
                    f"The checkpoint {folder} in {self.files} belongs to a run with other inputs.",
                    remedy="Remove it to start anew.",
                )
            if any(name not in names or self._digest(name) != sha256 for name, sha256 in marker["files"].items()):
                refused.append(f"checkpoint {folder} is skipped: its content does not match its checksum")
                continue
            return folder, refused
        return "", refused

    def _list_names(self) -> list[str]:
        """Names of all files; the first call records the folders that earlier process groups left."""
        names = self.files.names()
        if self._found is None:
            self._found = {name.split("/")[0] for name in names}
        return names

    def _load(self, folder: str, like: dict[str, Any] | None) -> dict[str, Any]:
        description = Description(**torch.load(io.BytesIO(self._content(f"{folder}/{_STATE}")), weights_only=True))
        state: dict[str, Any] = unpack(description, lambda into: load_shards(self.files, folder, into), like)
        return state

    def _next_folder(self, step: int) -> str:
        """Name of a new folder. A step can be saved twice: by a stop during the evaluation, and at the epoch's end."""
        folder, last = f"step-{step:010d}", self._last.rpartition("-")[0]
        if last.startswith(folder):
            folder = f"{folder}.{int(last.removeprefix(folder).removeprefix('.') or 0) + 1:03d}"
        self._last = f"{folder}-{self._token}"
        return self._last

    def _write(
        self,
        step: int,
        folder: str,
        description: Description,
        tensors: dict[str, Tensor],
        writers: "dist.ProcessGroup | None",
    ) -> None:
        try:
            if self.group.rank == 0:
                self._delete([name for name in self._list_names() if name.startswith(f"{folder}/")])
            if writers is not None:
                dist.barrier(writers)
            files = save_shards(self.files, folder, tensors, group=writers)
            if writers is not None:
                gathered: list[Any] = [None] * dist.get_world_size(writers)
                dist.all_gather_object(gathered, files, group=writers)
                files = {name: digest for part in gathered for name, digest in part.items()}
            if self.group.rank == 0:
                self._commit(folder, step, description, files)
                self._prune(folder)
        except Exception as error:
            raise UnavailableError(
                f"The checkpoint of step {step} could not be written to {self.files}: {error}.",
                remedy="Make room or restore access; the run resumes from the checkpoint before it.",
            ) from error

    def _commit(self, folder: str, step: int, description: Description, files: dict[str, str]) -> None:
        buffer = io.BytesIO()
        torch.save(vars(description), buffer)
        content = buffer.getvalue()
        self.files.write(f"{folder}/{_STATE}", content)
        marker = {
            "step": step,
            "inputs": self.inputs,
            "written_at": time.time(),
            "files": {**files, f"{folder}/{_STATE}": hashlib.sha256(content).hexdigest()},
        }
        self.files.write(f"{folder}/{MARKER}", json.dumps(marker).encode())

    def _prune(self, newest: str) -> None:
        """Delete all checkpoints but the newest committed ones, those that a killed worker left unfinished included."""
        names = self.files.names()
        folders = {name: name.split("/")[0] for name in names if name.startswith("step-")}
        committed = sorted(folder for name, folder in folders.items() if name.endswith(f"/{MARKER}"))
        kept = {newest, *committed[-self.keep :]}
        self._delete([name for name, folder in folders.items() if folder not in kept and self._may_delete(folder)])

    def _may_delete(self, folder: str) -> bool:
        return folder.endswith(f"-{self._token}") or folder in (self._found or ())

    def _delete(self, names: list[str]) -> None:
        markers = [name for name in names if name.endswith(f"/{MARKER}")]
        self.files.delete(markers)  # first, so that a partly deleted checkpoint never looks complete
        self.files.delete([name for name in names if name not in markers])

    def _content(self, name: str) -> bytes:
        with self.files.open(name, "rb") as file:
            return file.read()

    def _digest(self, name: str) -> str:
        with self.files.open(name, "rb") as file:
            return _sha256(file)


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
