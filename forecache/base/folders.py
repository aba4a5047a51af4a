"""Folders for versions and checkpoints: on a file system, or a prefix of an object store's bucket."""

import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from forecache.base.errors import SettingsError, UnavailableError, UnreachableError
from forecache.base.files import lock, replace_file, sync, write_durably
from forecache.base.steps import begin_work

SCHEMES = ("s3", "s3a", "gs", "az", "abfss")
_CHUNK_BYTES = 8 << 20  # bytes of one request to a bucket while a file is read
_NO_OBJECT = "Object at location"


def open_bucket(uri: str, options: Mapping[str, str], *, patience_s: float | None = None) -> Any:
    """Open an obstore store whose paths are relative to the URI, which starts with one of `SCHEMES` and `://`.

    `options` are those of delta-rs. A failing request is retried for `patience_s`; None: obstore's default, some
    minutes. UnavailableError if `obstore` is not installed, SettingsError for unknown options.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise UnavailableError(f"{uri} needs the package obstore.", remedy="Install forecache[s3].") from None
    config: Any = {key.lower(): value for key, value in options.items()}
    client: Any = {"timeout": "300s"}
    for name in ("allow_http", "aws_allow_http"):
        if config.pop(name, "false").lower() in ("true", "1"):
            client["allow_http"] = True
    for name in ("conditional_put", "aws_conditional_put", "aws_s3_allow_unsafe_rename"):
        config.pop(name, None)  # options of delta-rs only; obstore puts conditionally by ETag
    retry: Any = None
    if patience_s is not None:
        client["timeout"] = client["connect_timeout"] = f"{patience_s:g}s"
        retry = {"retry_timeout": timedelta(seconds=patience_s)}
    try:
        return from_url(uri.replace("s3a://", "s3://", 1), config=config, client_options=client, retry_config=retry)
    except BaseError as error:
        raise SettingsError(f"{uri} cannot be opened: {_find_cause(str(error))}.") from None


def tag_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Tag and version that identify the state of an object, for a conditional put."""
    return {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}


class LocalFolder:
    """A folder of this machine, or of a file system that several machines share.

    Names are relative paths with `/`, and folders in it are created as files need them.
    """

    durable = False  # a closed file may not survive a crash of the machine before its descriptor is synced

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Content of a small file, and the tag that identifies this state of it; None if there is no such file."""
        try:
            content = (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        return content, _sha256(content)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file durably; it appears whole or not at all."""
        write_durably(self._ensure_parent(name), content)

    def swap(self, name: str, content: bytes, tag: Any) -> str | None:
        """Write a small file if it still has this tag (None: it does not exist); returns its new tag, else None."""
        begin_work(f"writing {self}/{name}")
        path = self._ensure_parent(name)
        with lock(path.with_name(f".{path.name}.lock")):
            if (self.read(name) or (b"", None))[1] != tag:
                return None
            write_durably(path, content)
        return _sha256(content)

    def upload(self, source: Path, name: str) -> None:
        """Copy a local file durably; it appears whole or not at all."""
        with replace_file(self._ensure_parent(name)) as temporary:
            shutil.copyfile(source, temporary)

    def open(self, name: str, mode: str) -> IO[bytes]:
        """Open a file to write ("wb") or to read from any position ("rb"); FileNotFoundError if there is none."""
        if mode == "wb":
            begin_work(f"writing {self}/{name}")
        return (self._ensure_parent(name) if mode == "wb" else self.root / name).open(mode)

    def chunks(self, name: str, start: int) -> Iterator[bytes]:
        """The bytes of a file from a position on; FileNotFoundError if there is no such file."""
        with self.open(name, "rb") as file:
            file.seek(start)
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Some bytes of a file, fewer at its end; FileNotFoundError if there is no such file."""
        with self.open(name, "rb") as file:
            return os.pread(file.fileno(), length, start)

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if there is no such file."""
        try:
            return (self.root / name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self, prefix: str = "") -> list[str]:
        """Names of the files under a folder, at any depth."""
        found = os.walk(self.root / prefix)
        return [os.path.relpath(os.path.join(folder, name), self.root) for folder, _, names in found for name in names]

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Sizes in bytes of the files under a folder, at any depth, by name."""
        found = ((name, self.size(name)) for name in self.names(prefix))
        return {name: size for name, size in found if size is not None}

    def folders(self) -> list[str]:
        """Names of the folders at the top."""
        return [path.name for path in self.root.iterdir() if path.is_dir()] if self.root.is_dir() else []

    def rename(self, name: str, new_name: str) -> None:
        """Give a small file another name."""
        begin_work(f"renaming {self}/{name}")
        (self.root / name).rename(self.root / new_name)

    def delete(self, names: list[str]) -> None:
        """Delete files; missing ones are ignored."""
        begin_work(f"deleting files of {self}")
        for name in names:
            (self.root / name).unlink(missing_ok=True)
        for folder in {(self.root / name).parent for name in names}:
            with suppress(OSError):  # not empty, or already removed
                folder.rmdir()

    def _ensure_parent(self, name: str) -> Path:
        """The path of a file, after its folder was created durably."""
        path = self.root / name
        if not path.parent.is_dir():
            missing = [folder for folder in path.parents if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                sync(folder.parent)
        return path


class BucketFolder:
    """A prefix of a bucket, like a `LocalFolder`; objects appear whole and are durable.

    If the object store does not answer or refuses a request, all methods raise UnreachableError.
    """

    durable = True

    def __init__(self, uri: str, options: Mapping[str, str], *, patience_s: float | None = None) -> None:
        self.uri = uri
        self._store: Any = open_bucket(uri, options, patience_s=patience_s)
        import obstore

        self._obstore: Any = obstore

    def __str__(self) -> str:
        return self.uri

    def read(self, name: str) -> tuple[bytes, dict[str, Any]] | None:
        with self._reach():
            try:
                found = self._obstore.get(self._store, name)
            except FileNotFoundError:
                return None
            return bytes(found.bytes()), tag_of(found.meta)

    def write(self, name: str, content: bytes) -> None:
        begin_work(f"writing {self}/{name}")
        with self._reach(creates=True):
            self._obstore.put(self._store, name, content)

    def swap(self, name: str, content: bytes, tag: Any) -> dict[str, Any] | None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        begin_work(f"writing {self}/{name}")
        with self._reach(creates=tag is None):
            try:
                return tag_of(self._obstore.put(self._store, name, content, mode="create" if tag is None else tag))
            except (AlreadyExistsError, PreconditionError):
                return None
            except FileNotFoundError:
                if tag is None:
                    raise
                return None

    def upload(self, source: Path, name: str) -> None:
        begin_work(f"writing {self}/{name}")
        with self._reach(creates=True):
            self._obstore.put(self._store, name, source)

    def open(self, name: str, mode: str) -> IO[bytes]:
        if mode == "wb":
            begin_work(f"writing {self}/{name}")
            writer: IO[bytes] = self._obstore.open_writer(self._store, name)  # its methods raise OSError
            return writer
        with self._reach():
            reader = self._obstore.open_reader(self._store, name)
        return io.BufferedReader(_Ranges(reader, self._reach), _CHUNK_BYTES)

    def chunks(self, name: str, start: int) -> Iterator[Any]:
        options = {"range": {"offset": start}} if start else None
        with self._reach():
            yield from self._obstore.get(self._store, name, options=options).stream(min_chunk_size=_CHUNK_BYTES)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        with self._reach():
            return bytes(self._obstore.get_range(self._store, name, start=start, length=length))

    def size(self, name: str) -> int | None:
        with self._reach():
            try:
                return int(self._obstore.head(self._store, name)["size"])
            except FileNotFoundError:
                return None

    def names(self, prefix: str = "") -> list[str]:
        return list(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        with self._reach():
            pages = self._obstore.list(self._store, f"{prefix}/" if prefix else None)
            return {item["path"]: int(item["size"]) for page in pages for item in page}

    def folders(self) -> list[str]:
        with self._reach():
            return list(self._obstore.list_with_delimiter(self._store)["common_prefixes"])

    def rename(self, name: str, new_name: str) -> None:
        begin_work(f"renaming {self}/{name}")
        with self._reach():
            self._obstore.rename(self._store, name, new_name)

    def copy(self, name: str, new_name: str) -> None:
        """Let the object store copy an object; FileNotFoundError if there is none."""
        begin_work(f"copying {self}/{name}")
        with self._reach():
            self._obstore.copy(self._store, name, new_name)

    def delete(self, names: list[str]) -> None:
        begin_work(f"deleting files of {self}")
        if names:
            with self._reach(creates=True):
                self._obstore.delete(self._store, names)

    @contextmanager
    def _reach(self, *, creates: bool = False) -> Iterator[None]:
        """Turn errors of the block's request into UnreachableError, except FileNotFoundError for an object.

        `creates` is for requests that need no object: what they do not find is the bucket.
        """
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError) as error:
            if isinstance(error, FileNotFoundError) and not (creates and str(error).startswith(_NO_OBJECT)):
                raise
            raise UnreachableError(
                f"{self.uri} cannot be reached: {_find_cause(str(error))}.",
                remedy="Make sure that the object store answers and takes the keys, then try again.",
            ) from None


Folder = LocalFolder | BucketFolder


def open_folder(uri: str, options: Mapping[str, str], *, setting: str, patience_s: float | None = None) -> Folder:
    """Open a folder by path or URI, see `open_bucket`; SettingsError, which names the setting, for another scheme."""
    if "://" not in uri or uri.startswith("file://"):
        return LocalFolder(Path(uri.removeprefix("file://")).expanduser())
    if uri.split("://")[0] not in SCHEMES:
        raise SettingsError(
            f"{setting} is {uri!r}, whose scheme is not supported.",
            remedy="Set a folder, or a URI that starts with s3://, gs:// or az://.",
        )
    return BucketFolder(uri, options, patience_s=patience_s)


class _Ranges(io.RawIOBase):
    """An object as a file that is read in ranges, so that it is never whole in memory."""

    def __init__(self, reader: Any, reach: Callable[[], AbstractContextManager[None]]) -> None:
        self._reader, self._reach = reader, reach

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._reach():
            content = self._reader.read(len(buffer))
        buffer[: len(content)] = memoryview(content).cast("B")
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())


def _find_cause(text: str) -> str:
    """Find the cause in the message of an error of obstore, whose other lines show how it was made."""
    status = re.search(r"status code: (\d{3}[\w '-]*)", text)
    if status:
        code = re.search(r"<Code>(\w+)</Code>", text)
        return status[1].strip() + (f" ({code[1]})" if code else "")
    inner = re.findall(r'(?:message|error): "([^"]+)"', text)
    if inner:
        return str(inner[-1])
    if "TimedOut" in text or "kind: Timeout" in text:
        return "no answer in time"
    first_line = text.strip().partition("\n")[0]
    return first_line.rpartition(" - ")[2][:300].rstrip(".")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
