"""The Redis back end: versions of a store in Redis or Redis Cluster, loaded from verified local segments.

A segment's entries are string keys of their own, so that nothing is ever overwritten; a version is flipped in by one
key, and what no served version uses any more is unlinked afterwards, which Redis does in a thread of its own.

    forecache:pipelines                       set of the pipelines that are, or are being, loaded
    forecache:<pipeline>:current              the pointer: {"version", "manifest", "previous"}
    forecache:<pipeline>:segments             set of segment ids that are, or are being, loaded
    <pipeline>:<segment id>:{k<key>}          an entry; the braces put a key's entries of all segments on one node
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from forecache.errors import CheckError, ConflictError, NotFoundError, SettingsError, UnavailableError
from forecache.results import Progress, no_progress
from forecache.settings import Settings
from forecache.store.manifest import Manifest, SegmentInfo, manifest_from_json
from forecache.store.snapshot import Snapshot, split_entry
from forecache.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 1000
_SCAN = 5000
_PIPELINES = "forecache:pipelines"
_FLIP = """
local seen = redis.call('GET', KEYS[1])
if (seen or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


def connect(url: str, *, timeout_s: float | None = None) -> Any:
    """A client of Redis or, where the server runs in cluster mode, of Redis Cluster; values are bytes.

    Args:
        timeout_s: Longest wait for a connection and for an answer, after which nothing is tried again; None: as long
            as it takes.

    Raises:
        SettingsError: No URL is set.
        UnavailableError: The redis package is not installed, or the server does not answer.
    """
    if not url:
        raise SettingsError("FORECACHE_REDIS_URL is not set.", remedy="Set it, such as redis://127.0.0.1:6379/0.")
    try:
        import redis
    except ImportError:
        raise UnavailableError(
            "The redis back end needs the package redis.", remedy="Install forecache[redis]."
        ) from None
    waits: dict[str, Any] = {}
    if timeout_s is not None:
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        waits = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),  # by default it waits for seconds between tries
        }
    client = redis.Redis.from_url(url, **waits)
    try:
        if client.info("server").get("redis_mode") == "cluster":
            client.close()
            return redis.RedisCluster.from_url(url, **waits)
    except redis.RedisError as error:
        raise UnavailableError(
            f"Redis at {_without_password(url)} does not answer: {error}.",
            remedy="Start it, or set FORECACHE_REDIS_URL.",
        ) from None
    return client


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


class RedisSnapshot:
    """Reads of one version in Redis; the same calls as `Snapshot`."""

    def __init__(self, client: Any, manifest: Manifest) -> None:
        self.manifest = manifest
        self._client = client
        self._prefixes = [_prefix(manifest.pipeline, segment) for segment in reversed(manifest.segments)]
        self._cluster = _is_cluster(client)

    def get_entry(self, key: bytes) -> bytes | None:
        """The entry of a key, with the row's provenance id where it has one of its own."""
        if len(self._prefixes) == 1:
            found: bytes | None = self._client.get(_entry_key(self._prefixes[0], key))
            return found or None
        return _newest(self._client.mget([_entry_key(prefix, key) for prefix in self._prefixes]))

    def get(self, key: bytes) -> bytes | None:
        """The JSON object of the served fields, None where the key is missing."""
        entry = self.get_entry(key)
        return None if entry is None else split_entry(entry)[0]

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return [None if entry is None else split_entry(entry)[0] for entry in self.get_entries(list(keys))]

    def get_entries(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The entries of several keys in one round trip (one per node of a cluster)."""
        if not keys:
            return []
        layers = len(self._prefixes)
        if not self._cluster:
            flat = self._client.mget([_entry_key(prefix, key) for key in keys for prefix in self._prefixes])
            return [_newest(flat[start : start + layers]) for start in range(0, len(flat), layers)]
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            for prefix in self._prefixes:
                pipe.get(_entry_key(prefix, key))
        flat = pipe.execute()
        return [_newest(flat[start : start + layers]) for start in range(0, len(flat), layers)]

    def take(self, keys: Sequence[object]) -> "pa.Table":
        """See `Snapshot.take`."""
        from forecache.store.take import take

        return take(self, keys)

    def close(self) -> None:
        """Nothing to give back: the client belongs to the store."""

    def __enter__(self) -> "RedisSnapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RedisStore:
    """A pipeline's versions in Redis."""

    def __init__(self, client: Any, pipeline: str) -> None:
        self.client = client
        self.pipeline = pipeline

    def _state(self) -> tuple[bytes, dict[str, Any]]:
        raw = self.client.get(f"forecache:{self.pipeline}:current") or b""
        return raw, json.loads(raw) if raw else {}

    def current(self) -> Manifest | None:
        """The manifest of the served version, None before the first."""
        _, state = self._state()
        return manifest_from_json(json.dumps(state["manifest"]).encode()) if state else None

    def snapshot(self) -> RedisSnapshot:
        """Reads of the served version; NotFoundError where there is none."""
        manifest = self.current()
        if manifest is None:
            raise NotFoundError(f"Redis serves nothing for {self.pipeline}.", remedy="Publish first.")
        return RedisSnapshot(self.client, manifest)

    def holds(self, manifest: Manifest) -> bool:
        """Whether a version's segments are whole: those of the served version and of the one before it are."""
        _, state = self._state()
        needed = {segment.id for segment in manifest.segments}
        return bool(state) and needed <= _segment_ids(state) | set(state["previous"])

    def load(self, store: Store, *, progress: Progress = no_progress) -> dict[str, Any]:
        """Bring Redis up to a local store's served version: load what is missing, verify, flip, unlink the rest.

        Raises:
            CheckError: What Redis reads back is not what the manifest says; its served version is untouched.
            ConflictError: Another publisher flipped Redis meanwhile.
        """
        manifest = store.current()
        if manifest is None:
            raise NotFoundError(f"Nothing is published for {self.pipeline}.", remedy="Publish first.")
        self.client.sadd(_PIPELINES, self.pipeline)
        raw, state = self._state()
        if state.get("version") == manifest.version:
            return {"version": manifest.version, "loaded": 0, "unlinked": self._unlink(state)}
        complete = _segment_ids(state)
        loaded = 0
        with store.snapshot(manifest.version) as snapshot:
            for number, segment in enumerate(manifest.segments):
                if segment.id not in complete:
                    loaded += self._load_segment(snapshot, number, segment, progress)
            self._verify(snapshot, complete)
        after = {
            "version": manifest.version,
            "manifest": json.loads(manifest.to_json()),
            "previous": [segment.id for segment in manifest_segments(state)],
        }
        if not self.client.eval(_FLIP, 1, f"forecache:{self.pipeline}:current", raw, json.dumps(after).encode()):
            raise ConflictError(
                f"Another publisher flipped {self.pipeline} in Redis meanwhile.", remedy="Its version stands."
            )
        return {"version": manifest.version, "loaded": loaded, "unlinked": self._unlink(after)}

    def _load_segment(self, snapshot: Snapshot, number: int, segment: SegmentInfo, progress: Progress) -> int:
        # The set is written first, so that a load that dies half way is found and unlinked by a later one.
        self.client.sadd(f"forecache:{self.pipeline}:segments", segment.id)
        prefix = _prefix(self.pipeline, segment)
        write = self._set_many if _is_cluster(self.client) else self.client.mset
        loaded = 0
        for rows in batches(snapshot.segment_items(number), _BATCH):
            write({_entry_key(prefix, key): entry for key, entry in rows})
            loaded += len(rows)
            progress(f"Loading {segment.id} into Redis", loaded / max(1, segment.entries))
        return loaded

    def _set_many(self, entries: dict[bytes, bytes]) -> None:
        pipe = self.client.pipeline(transaction=False)
        for key, entry in entries.items():
            pipe.set(key, entry)
        pipe.execute()

    def _verify(self, snapshot: Snapshot, complete: set[str]) -> None:
        """Compare what Redis reads with the local version: every key of the segments that were loaded."""
        there = RedisSnapshot(self.client, snapshot.manifest)
        for number, segment in enumerate(snapshot.manifest.segments):
            if segment.id in complete:
                continue
            for rows in batches(snapshot.segment_items(number), _BATCH):
                keys = [key for key, _ in rows]
                expected = list(map(snapshot.get_entry, keys))
                found = there.get_entries(keys)
                if found != expected:
                    place = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
                    raise CheckError(
                        f"Redis reads {found[place]!r} for {keys[place]!r} where {expected[place]!r} was loaded.",
                        remedy="Redis still serves the version before. Check its memory and eviction policy.",
                    )

    def _unlink(self, state: dict[str, Any]) -> int:
        """Remove segments that neither the served version nor the one before it uses; keys removed."""
        keep = _segment_ids(state) | set(state["previous"])
        known = {name.decode() for name in self.client.smembers(f"forecache:{self.pipeline}:segments")}
        unlinked = 0
        for segment_id in sorted(known - keep):
            pattern = f"{self.pipeline}:{segment_id}:*"
            for keys in batches(self.client.scan_iter(match=pattern, count=_SCAN), _BATCH):
                unlinked += self._unlink_many(keys)
            self.client.srem(f"forecache:{self.pipeline}:segments", segment_id)
        return unlinked

    def _unlink_many(self, keys: list[bytes]) -> int:
        if not _is_cluster(self.client):
            return int(self.client.unlink(*keys))
        pipe = self.client.pipeline(transaction=False)
        for key in keys:
            pipe.unlink(key)
        return sum(pipe.execute())


def pipelines_in_redis(client: Any) -> set[str]:
    """Names of the pipelines that have been loaded; one whose first load is under way serves nothing yet."""
    return {name.decode() for name in client.smembers(_PIPELINES)}


def open_redis_store(settings: Settings, pipeline_name: str) -> RedisStore:
    """The Redis side of a pipeline's store; see `connect` for what it raises."""
    return RedisStore(connect(settings.redis_url), pipeline_name)


def manifest_segments(state: dict[str, Any]) -> tuple[SegmentInfo, ...]:
    return manifest_from_json(json.dumps(state["manifest"]).encode()).segments if state else ()


def _segment_ids(state: dict[str, Any]) -> set[str]:
    return {segment.id for segment in manifest_segments(state)}


def _is_cluster(client: Any) -> bool:
    return hasattr(client, "nodes_manager")


def _prefix(pipeline: str, segment: SegmentInfo) -> bytes:
    return f"{pipeline}:{segment.id}:".encode()


def _entry_key(prefix: bytes, key: bytes) -> bytes:
    # `k` keeps the braces from being empty, which Redis would not take as a hash tag, where a key starts with `}`.
    return prefix + b"{k" + key + b"}"


def _newest(entries: Sequence[bytes | None]) -> bytes | None:
    for entry in entries:
        if entry is not None:
            return entry or None
    return None


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
