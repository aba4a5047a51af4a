"""Reads of a version in Redis, and the Redis keys of its entries."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from forecache.plugins.redis.client import is_cluster
from forecache.serve.store.manifest import Manifest, SegmentInfo
from forecache.serve.store.packed import matrix_of
from forecache.serve.store.read.snapshot import split_entry

if TYPE_CHECKING:
    import numpy as np


class RedisSnapshot:
    """Reads of one version in Redis; the same calls as `Snapshot`."""

    def __init__(self, client: Any, manifest: Manifest) -> None:
        self.manifest = manifest
        self._client = client
        self._prefixes = [key_prefix(manifest.pipeline, segment) for segment in reversed(manifest.segments)]

    def get_entry(self, key: bytes) -> bytes | None:
        """The entry of a key, with the row's provenance id if it has one of its own."""
        if len(self._prefixes) == 1:
            found: bytes | None = self._client.get(entry_key(self._prefixes[0], key))
            return found or None
        return _newest_entry(self._client.mget([entry_key(prefix, key) for prefix in self._prefixes]))

    def get(self, key: bytes) -> bytes | None:
        """The JSON object of the served fields (of a packed version its numbers), None if the key is missing."""
        return self.get_many([key])[0]

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        entries = self.get_entries(list(keys))
        if not self.manifest.carried:
            return entries
        return [None if entry is None else split_entry(entry)[0] for entry in entries]

    def matrix(self, keys: Sequence[bytes]) -> "tuple[np.ndarray, np.ndarray]":
        """As `Snapshot.matrix`, of a packed version, in one round trip (one per node of a cluster)."""
        return matrix_of(self.get_entries(keys), self.manifest.width)

    def get_entries(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The entries of several keys in one round trip (one per node of a cluster)."""
        if not keys:
            return []
        return self.newest_entries(read_values(self._client, self.entry_names(keys)))

    def entry_names(self, keys: Sequence[bytes]) -> list[bytes]:
        """Redis keys of the entries of several keys: one for each segment, the newest first."""
        return [entry_key(prefix, key) for key in keys for prefix in self._prefixes]

    def newest_entries(self, values: Sequence[bytes | None]) -> list[bytes | None]:
        """The newest entry of each key from the values of `entry_names`."""
        layers = len(self._prefixes)
        return [_newest_entry(values[start : start + layers]) for start in range(0, len(values), layers)]

    def close(self) -> None:
        """Does nothing: the client belongs to the store."""

    def __enter__(self) -> "RedisSnapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def key_prefix(pipeline: str, segment: SegmentInfo) -> bytes:
    return f"{pipeline}:{segment.id}:".encode()


def entry_key(prefix: bytes, key: bytes) -> bytes:
    # `k` keeps the braces from being empty if a key starts with `}`: Redis ignores an empty hash tag.
    return prefix + b"{k" + key + b"}"


def read_values(client: Any, names: Sequence[bytes]) -> list[bytes | None]:
    """The values of several Redis keys in one round trip (one per node of a cluster); None for missing ones."""
    if not is_cluster(client):
        return list(client.mget(names))
    return run_pipelined(client, "get", [(name,) for name in names])


def run_pipelined(cluster: Any, command: str, calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Run a command with each of these arguments in one round trip per node of a cluster; returns the results."""
    pipe = cluster.pipeline(transaction=False)
    for arguments in calls:
        getattr(pipe, command)(*arguments)
    return list(pipe.execute())


def _newest_entry(entries: Sequence[bytes | None]) -> bytes | None:
    for entry in entries:
        if entry is not None:
            return entry or None
    return None
