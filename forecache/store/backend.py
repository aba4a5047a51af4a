"""The small interface behind which versions are read, whatever holds them.

Every back end serves versions that were built and verified in the local store: `lmdb` maps its segments, `redis`
holds a copy of them. Replicas on other machines have a local store of their own, which they pull.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from forecache.settings import Settings
from forecache.store.manifest import Manifest
from forecache.store.store import open_store

if TYPE_CHECKING:
    import pyarrow as pa


class Reading(Protocol):
    """An open version: `Snapshot` or `RedisSnapshot`. What the calls mean is said there."""

    manifest: Manifest

    @property
    def get(self) -> Any: ...

    @property
    def get_entry(self) -> Any: ...

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]: ...

    def take(self, keys: Sequence[object]) -> "pa.Table": ...

    def close(self) -> None: ...


class Backend(Protocol):
    """What holds the versions of a pipeline: `Store` or `RedisStore`."""

    def current(self) -> Manifest | None:
        """The manifest of the served version, None before the first."""

    def snapshot(self) -> Reading:
        """The served version, open for reading; NotFoundError before the first."""


def open_backend(settings: Settings, pipeline_name: str, *, backend: Literal["lmdb", "redis"]) -> Backend:
    """The back end that a pipeline's declaration names in `publish.backend`."""
    if backend == "redis":
        from forecache.store.redis.versions import open_redis_store

        return open_redis_store(settings, pipeline_name)
    return open_store(settings, pipeline_name)
