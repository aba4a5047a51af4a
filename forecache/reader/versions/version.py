"""The interface of an open version, on this machine or in Redis."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from forecache.store import Manifest


class Version(Protocol):
    """An open version: `Snapshot`, or one in Redis."""

    manifest: Manifest

    @property
    def get_entry(self) -> Callable[[bytes], bytes | None]: ...

    @property
    def get_entries(self) -> Callable[[Sequence[bytes]], list[bytes | None]]: ...

    @property
    def mapped_bytes(self) -> int: ...

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]: ...

    def warm(self) -> int: ...

    def close(self) -> None: ...
