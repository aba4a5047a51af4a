"""Remotes: a folder or a bucket that a publisher writes versions to and replicas read them from.

Both keep files under the same relative names as the store's own folder. The pointer is replaced only if it still is
what the publisher read: under a file lock in a folder, by a conditional put in a bucket.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from forecache.buckets import SCHEMES, open_bucket
from forecache.errors import ConflictError, NotFoundError, SettingsError
from forecache.store.layout import fsync_path, write_durably

_CHUNK_BYTES = 8 << 20


class Remote(Protocol):
    """What a store needs of a remote; names are relative paths with `/`."""

    def read(self, name: str) -> tuple[bytes, Any] | None:
        """A small file's content and the tag that identifies this state of it; None where there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file whole."""

    def swap(self, name: str, content: bytes, tag: Any) -> None:
        """Replace a small file that still has this tag (None: that does not exist); ConflictError otherwise."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is no such file."""

    def upload(self, source: Path, name: str) -> None:
        """Copy a local file; it appears whole or not at all."""

    def chunks(self, name: str, start: int) -> Iterator[Any]:
        """The bytes of a file from a position on; NotFoundError where there is no such file."""

    def names(self, prefix: str) -> list[str]:
        """Names of the files under a folder, at any depth."""

    def folders(self) -> list[str]:
        """Names of the folders at the top."""

    def delete(self, names: list[str]) -> None:
        """Delete files."""


def open_remote(uri: str, options: Mapping[str, str]) -> Remote:
    """A remote by folder or URI.

    Raises:
        SettingsError: The URI has a scheme that is not supported.
        UnavailableError: `obstore` is needed and not installed.
    """
    if "://" not in uri:
        return FolderRemote(Path(uri).expanduser())
    if uri.startswith("file://"):
        return FolderRemote(Path(uri.removeprefix("file://")))
    if uri.split("://")[0] not in SCHEMES:
        raise SettingsError(
            f"FORECACHE_STORE_REMOTE is {uri!r}, whose scheme is not supported.",
            remedy="Set a folder, or a URI that starts with s3://, gs:// or az://.",
        )
    return ObjectRemote(uri, options)


def remote_pipelines(remote: Remote) -> list[str]:
    """The pipelines that a remote serves, in alphabetical order."""
    return sorted(name for name in remote.folders() if remote.size(f"{name}/CURRENT") is not None)


class FolderRemote:
    """A folder, local or on a network file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> tuple[bytes, str] | None:
        try:
            content = (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        return content, hashlib.sha256(content).hexdigest()

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, content)

    def swap(self, name: str, content: bytes, tag: str | None) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with _file_lock(path.with_name(f".{path.name}.lock")):
            current = self.read(name)
            if (current[1] if current else None) != tag:
                raise _moved(name)
            write_durably(path, content)

    def size(self, name: str) -> int | None:
        try:
            return (self.root / name).stat().st_size
        except FileNotFoundError:
            return None

    def upload(self, source: Path, name: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        shutil.copyfile(source, temporary)
        fsync_path(temporary)
        os.replace(temporary, path)
        fsync_path(path.parent)

    def chunks(self, name: str, start: int) -> Iterator[bytes]:
        try:
            file = open(self.root / name, "rb")  # noqa: SIM115 - closed below, the error is about opening
        except FileNotFoundError:
            raise NotFoundError(f"The remote has no file {name}.", remedy="It was removed; pull again.") from None
        with file:
            file.seek(start)
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def names(self, prefix: str) -> list[str]:
        folder = self.root / prefix
        return [str(path.relative_to(self.root)) for path in folder.rglob("*") if path.is_file()]

    def folders(self) -> list[str]:
        return [path.name for path in self.root.iterdir() if path.is_dir()] if self.root.is_dir() else []

    def delete(self, names: list[str]) -> None:
        for name in names:
            path = self.root / name
            path.unlink(missing_ok=True)
            if path.parent.exists() and not any(path.parent.iterdir()):
                path.parent.rmdir()


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _moved(name: str) -> ConflictError:
    return ConflictError(
        f"The remote's {name} was moved by another publisher meanwhile.", remedy="Its version stands; publish again."
    )


class ObjectRemote:
    """A bucket of an object store, through obstore; conditional puts need S3, GCS, Azure or MinIO."""

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        self._store: Any = open_bucket(uri, options)
        import obstore

        self._obstore: Any = obstore

    def read(self, name: str) -> tuple[bytes, dict[str, Any]] | None:
        try:
            found = self._obstore.get(self._store, name)
        except FileNotFoundError:
            return None
        meta = found.meta
        tag = {"e_tag": meta["e_tag"], "version": meta["version"]}
        return bytes(found.bytes()), {name: value for name, value in tag.items() if value is not None}

    def write(self, name: str, content: bytes) -> None:
        self._obstore.put(self._store, name, content)

    def swap(self, name: str, content: bytes, tag: dict[str, Any] | None) -> None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            self._obstore.put(self._store, name, content, mode="create" if tag is None else tag)
        except (AlreadyExistsError, PreconditionError):
            raise _moved(name) from None

    def size(self, name: str) -> int | None:
        try:
            return int(self._obstore.head(self._store, name)["size"])
        except FileNotFoundError:
            return None

    def upload(self, source: Path, name: str) -> None:
        self._obstore.put(self._store, name, source)

    def chunks(self, name: str, start: int) -> Iterator[Any]:
        try:
            options = {"range": {"offset": start}} if start else None
            yield from self._obstore.get(self._store, name, options=options).stream(min_chunk_size=_CHUNK_BYTES)
        except FileNotFoundError:
            raise NotFoundError(f"The remote has no file {name}.", remedy="It was removed; pull again.") from None

    def names(self, prefix: str) -> list[str]:
        return [item["path"] for page in self._obstore.list(self._store, f"{prefix}/") for item in page]

    def folders(self) -> list[str]:
        return list(self._obstore.list_with_delimiter(self._store)["common_prefixes"])

    def delete(self, names: list[str]) -> None:
        if names:
            self._obstore.delete(self._store, names)
