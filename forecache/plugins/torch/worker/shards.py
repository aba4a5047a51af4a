"""`torch.distributed.checkpoint` over a `Folder`: each rank's shards in a file, hashed as they are written."""

import hashlib
import io
import os
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import IO, Any, cast

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemBase

from forecache.base.folders import Folder

_BUFFER_BYTES = 1 << 20


def save_shards(
    files: Folder, folder: str, tensors: Mapping[str, Tensor], *, group: "dist.ProcessGroup | None"
) -> dict[str, str]:
    """Write tensors into the empty folder `folder` of `files`.

    Args:
        tensors: On the CPU; each rank writes its shard of a DTensor.
        group: All its ranks must call; None: this process writes everything.

    Returns:
        SHA-256 of the files that this rank wrote, by name.

    Raises:
        OSError: A rank could not write; raised on every rank.
    """
    system = _FileSystem(files)
    writer = dcp.FileSystemWriter(folder, sync_files=not files.durable)
    writer.fs = system
    writer.path = system.init_path(folder)
    planner = dcp.DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with _silence_single_process_warning(group), _raise_os_errors():
        dcp.save(dict(tensors), storage_writer=writer, planner=planner, process_group=group, no_dist=group is None)
    return system.digests


def load_shards(files: Folder, folder: str, tensors: dict[str, Tensor]) -> None:
    """Fill tensors from the folder `folder` of `files`, each rank on its own; a DTensor's sharding may differ.

    Raises:
        OSError: A file or a tensor is missing.
    """
    system = _FileSystem(files)
    reader = dcp.FileSystemReader(folder)
    reader.fs = system
    reader.path = system.init_path(folder)
    planner = dcp.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with _silence_single_process_warning(None), _raise_os_errors():
        dcp.load(tensors, storage_reader=reader, planner=planner, no_dist=True)


class _FileSystem(FileSystemBase):
    """The file operations of DCP's writer and reader on a `Folder`; `digests` has the SHA-256 of each written file."""

    def __init__(self, files: Folder) -> None:
        self.files = files
        self.digests: dict[str, str] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        with self.files.open(str(path), mode) as file:
            if mode == "rb":
                yield cast("io.IOBase", file)
                return
            hashed = _HashingFile(file)
            with io.BufferedWriter(hashed, _BUFFER_BYTES) as stream:
                yield stream
            self.digests[str(path)] = hashed.digest.hexdigest()

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return f"{path}/{suffix}"

    def init_path(self, path: str | os.PathLike[str]) -> str:
        return str(path)

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        self.files.rename(str(path), str(new_path))
        self.digests[str(new_path)] = self.digests.pop(str(path))

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Nothing to do: writing a file creates its folder."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return str(path) in self.digests  # the folder was empty

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        self.files.delete([str(path)])


class _HashingFile(io.RawIOBase):
    """Writes through to a file and hashes the content; closing this object does not close the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.written = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        own = bytes(content)  # a copy: the bucket's writer uploads later, and the caller reuses its buffer
        self.file.write(own)
        self.digest.update(own)
        self.written += len(own)
        return len(own)

    def tell(self) -> int:
        return self.written

    def flush(self) -> None:
        if not self.file.closed:
            self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()


@contextmanager
def _silence_single_process_warning(group: "dist.ProcessGroup | None") -> Generator[None, None, None]:
    """Silence the warning of DCP, at every save and load without a group, that there is none."""
    with warnings.catch_warnings():
        if group is None:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


@contextmanager
def _raise_os_errors() -> Generator[None, None, None]:
    """Raise DCP's exception as an OSError: DCP's is a BaseException whose text has a traceback of each rank."""
    try:
        yield
    except CheckpointException as error:
        [first, *_] = [failure for failure, _ in error.failures.values()]
        raise OSError(f"{type(first).__name__}: {first}") from error
