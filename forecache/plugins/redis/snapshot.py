"""Reads of one version in Redis: each tells a key that is unknown from one whose entries were removed or lost."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from forecache.base.errors import UnavailableError
from forecache.plugins.redis.client import is_cluster, read_values, slot_tags
from forecache.serve.store.manifest import Manifest, SegmentInfo
from forecache.serve.store.read.snapshot import values_of
from forecache.serve.store.values import matrix_of

if TYPE_CHECKING:
    import numpy as np


class RedisSnapshot:
    """Reads of one version in Redis; the same calls as `Snapshot`.

    `load` is the number of a load after which the version was served, 0 if its entries have no marks.
    """

    def __init__(self, client: Any, manifest: Manifest, *, load: int) -> None:
        self.manifest = manifest
        self.load = load
        self._client, self._number = client, str(load).encode()
        self._in_cluster = is_cluster(client)
        self._prefixes = [key_prefix(manifest.pipeline, segment) for segment in reversed(manifest.segments)]

    def get_entry(self, key: bytes) -> bytes | None:
        """The entry of a key, with the row's provenance id if it has one of its own."""
        return self.get_entries([key])[0]

    def get(self, key: bytes) -> bytes | None:
        """The JSON object of the served fields (of a packed version its numbers), None if the key is missing."""
        return self.get_many([key])[0]

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return values_of(self.get_entries(list(keys)), self.manifest)

    def matrix(self, keys: Sequence[bytes]) -> "tuple[np.ndarray, np.ndarray]":
        """As `Snapshot.matrix`, of a packed version, in one round trip (one per node of a cluster)."""
        return matrix_of(self.get_entries(keys), self.manifest.width)

    def get_entries(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The entries of several keys in one round trip (one per node of a cluster); as `newest_entries`."""
        if not keys:
            return []
        return self.newest_entries(read_values(self._client, self.entry_names(keys)))

    def entry_names(self, keys: Sequence[bytes]) -> list[list[bytes]]:
        """For each key the Redis keys of its entries, one for each segment, the newest first, and its slot's mark.

        Without a cluster one mark follows them all. The keys of a list, without a cluster of all lists, have to be read
        by one command.
        """
        names = [[entry_key(prefix, key) for prefix in self._prefixes] for key in keys]
        marks = mark_names(self.manifest.pipeline, in_cluster=self._in_cluster)
        if not self._in_cluster:
            return [*names, marks]
        for key, own in zip(keys, names, strict=True):
            own.append(marks[slot_of(key)])
        return names

    def newest_entries(self, values: Sequence[bytes | None]) -> list[bytes | None]:
        """The newest entry of each key from the values of `entry_names`.

        Raises UnavailableError if an entry is missing that may have been removed with its version, or lost.
        """
        layers, newest = len(self._prefixes), list[bytes | None]()
        step = layers + self._in_cluster
        for start in range(0, len(values) - (not self._in_cluster), step):
            entries = values[start : start + layers]
            if entries[0] is None and self.load:
                self._require_mark(values[start + layers if self._in_cluster else -1])
            newest.append(next((entry for entry in entries if entry is not None), None) or None)
        return newest

    def _require_mark(self, mark: bytes | None) -> None:
        # All segments of a version stay until the load after the next one is served.
        if self._number not in (mark or b"").split():
            raise UnavailableError(
                f"Redis has removed version {self.manifest.version} of {self.manifest.pipeline} or lost entries of it.",
                remedy="Ask again: a reader soon serves the newest version. What was lost is loaded again by "
                "`forecache store push` or the next publish.",
            )

    def close(self) -> None:
        """Does nothing: the client is another's."""

    def __enter__(self) -> "RedisSnapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def key_prefix(pipeline: str, segment: SegmentInfo) -> bytes:
    return f"{pipeline}:{segment.id}:".encode()


def entry_key(prefix: bytes, key: bytes) -> bytes:
    # `k` keeps the braces from being empty if a key starts with `}`: Redis ignores an empty hash tag.
    return prefix + b"{k" + key + b"}"


def slot_of(key: bytes) -> int:
    """The slot of a cluster that has the entries of a key."""
    from redis.crc import key_slot

    # Of the name, not of its part in braces alone: the first `}` ends that part, which may be in the key.
    return key_slot(b"{k" + key + b"}")


@cache
def mark_names(pipeline: str, *, in_cluster: bool) -> list[bytes]:
    """The Redis keys of a store's marks: one, in a cluster one for each slot."""
    return [f"forecache:{pipeline}:{{{tag}}}".encode() for tag in (slot_tags() if in_cluster else ("mark",))]
