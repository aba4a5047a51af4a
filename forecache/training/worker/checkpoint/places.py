"""Where a run's checkpoints lie: a folder, or a prefix of an object store's bucket. Names are relative, with `/`."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from forecache.buckets import SCHEMES, open_bucket
from forecache.errors import SettingsError

_RANGE_BYTES = 8 << 20
"""Of a request to a bucket while a file is read."""


class Place(Protocol):
    """What checkpoints need of their place."""

    durable: bool
    """Whether a file that was closed survives a crash of the machine; else its descriptor has to be synced first."""

    def names(self) -> list[str]:
        """Names of all files."""

    def open(self, name: str, mode: str) -> IO[bytes]:
        """A file to write ("wb") or to read from any position ("rb"); FileNotFoundError where there is none."""

    def replace(self, name: str, content: bytes) -> None:
        """Write a small file durably; it appears whole or not at all."""

    def rename(self, name: str, new_name: str) -> None:
        """Give a small file another name."""

    def delete(self, names: list[str]) -> None:
        """Delete files."""


def open_place(uri: str, options: Mapping[str, str]) -> Place:
    """A folder or a bucket's prefix, with the options that reach the lake's.

    Raises:
        SettingsError: The URI has a scheme that is not supported.
        UnavailableError: `obstore` is needed and not installed.
    """
    if "://" not in uri or uri.startswith("file://"):
        return Folder(Path(uri.removeprefix("file://")))
    if uri.split("://")[0] not in SCHEMES:
        raise SettingsError(
            f"FORECACHE_TRAINING_CHECKPOINTS is in {uri!r}, whose scheme is not supported.",
            remedy="Set a folder, or a URI that starts with s3://, gs:// or az://.",
        )
    return Bucket(uri, options)


class Folder:
    """A folder, local or shared by all nodes."""

    durable = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def names(self) -> list[str]:
        root = str(self.root)
        return [
            os.path.relpath(os.path.join(folder, name), root) for folder, _, names in os.walk(root) for name in names
        ]

    def open(self, name: str, mode: str) -> IO[bytes]:
        path = self.root / name
        if mode == "wb":
            path.parent.mkdir(parents=True, exist_ok=True)
        return path.open(mode)

    def replace(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.tmp")
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        for folder in (path.parent, self.root):
            _sync(folder)

    def rename(self, name: str, new_name: str) -> None:
        (self.root / name).rename(self.root / new_name)

    def delete(self, names: list[str]) -> None:
        for name in names:
            (self.root / name).unlink()
        for folder in {(self.root / name).parent for name in names}:
            if not any(folder.iterdir()):
                folder.rmdir()


class Bucket:
    """A prefix of a bucket; what is put there appears whole and is durable."""

    durable = True

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        self.uri = uri
        self._store: Any = open_bucket(uri, options)
        import obstore

        self._obstore: Any = obstore

    def __str__(self) -> str:
        return self.uri

    def names(self) -> list[str]:
        return [item["path"] for page in self._obstore.list(self._store) for item in page]

    def open(self, name: str, mode: str) -> IO[bytes]:
        if mode == "wb":
            writer: IO[bytes] = self._obstore.open_writer(self._store, name)
            return writer
        return io.BufferedReader(_Ranges(self._obstore.open_reader(self._store, name)), _RANGE_BYTES)

    def replace(self, name: str, content: bytes) -> None:
        self._obstore.put(self._store, name, content)

    def rename(self, name: str, new_name: str) -> None:
        self._obstore.rename(self._store, name, new_name)

    def delete(self, names: list[str]) -> None:
        if names:
            self._obstore.delete(self._store, names)


class _Ranges(io.RawIOBase):
    """An object as a file that is read in ranges: never whole in memory."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._reader.read(len(buffer))
        buffer[: len(content)] = memoryview(content).cast("B")
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
