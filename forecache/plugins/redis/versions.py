"""The Redis back end: versions of a store in Redis or Redis Cluster, loaded from verified local segments, and read.

Each entry of a segment is a string key of its own, so that nothing is ever overwritten. One key makes a version
current; segments that neither it nor the version before uses are unlinked afterwards, by Redis in the background.

    forecache:pipelines                       set of the pipelines that are, or are being, loaded
    forecache:<pipeline>:current              the pointer: {"store", "version", "manifest", "previous", "compared_at"}
    forecache:<pipeline>:segments             set of segment ids that are, or are being, loaded
    <pipeline>:<segment id>:{k<key>}          an entry; the braces put a key's entries of all segments on one node
    forecache:<pipeline>:{<tag>}              in a cluster, one for each of its slots: the number of the last load

The last ones are written after the entries. A node that was set back, or that started empty, has lost them, too: a key
that is missing there is not answered as unknown, and the next load compares and loads everything again.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from forecache.base.errors import CheckError, ConflictError, NotFoundError, SettingsError, UnavailableError
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, is_looking
from forecache.plugins.redis.client import (
    connect,
    evicting_policy,
    is_cluster,
    list_primaries,
    raise_unavailable,
    read_values,
    run_on_each_primary,
    run_pipelined,
    slot_tags,
    wait_for_replicas,
)
from forecache.serve.store.layout import targets_lock
from forecache.serve.store.manifest import Manifest, SegmentInfo, current_timestamp, manifest_from_json
from forecache.serve.store.read.snapshot import Snapshot, values_of
from forecache.serve.store.store import Store
from forecache.serve.store.values import matrix_of

if TYPE_CHECKING:
    import numpy as np


class RedisSnapshot:
    """Reads of one version in Redis; the same calls as `Snapshot`.

    In a cluster, `load` is the number of a load after which the version was complete there.
    """

    def __init__(self, client: Any, manifest: Manifest, *, load: int) -> None:
        self.manifest = manifest
        self._client, self._load_number = client, load
        self._marked = is_cluster(client)
        self._prefixes = [key_prefix(manifest.pipeline, segment) for segment in reversed(manifest.segments)]
        self.names_per_key = len(self._prefixes) + self._marked

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
        """The entries of several keys in one round trip (one per node of a cluster)."""
        if not keys:
            return []
        return self.newest_entries(read_values(self._client, self.entry_names(keys)))

    def entry_names(self, keys: Sequence[bytes]) -> list[list[bytes]]:
        """For each key the Redis keys of its entries, one for each segment, the newest first; and the slot's mark."""
        names = [[entry_key(prefix, key) for prefix in self._prefixes] for key in keys]
        if self._marked:
            marks = mark_names(self.manifest.pipeline)
            for key, own in zip(keys, names, strict=True):
                own.append(marks[slot_of(key)])
        return names

    def newest_entries(self, values: Sequence[bytes | None]) -> list[bytes | None]:
        """The newest entry of each key from the values of `entry_names`.

        Raises UnavailableError if an entry is missing that the node may have lost.
        """
        layers, newest = len(self._prefixes), list[bytes | None]()
        for start in range(0, len(values), self.names_per_key):
            entries = values[start : start + layers]
            if self._marked and entries[0] is None and int(values[start + layers] or 0) < self._load_number:
                raise UnavailableError(
                    f"A node of the Redis Cluster has lost entries of {self.manifest.pipeline}.",
                    remedy="`forecache store push` or the next publish loads them again.",
                )
            newest.append(next((entry for entry in entries if entry is not None), None) or None)
        return newest

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
def mark_names(pipeline: str) -> list[bytes]:
    """For each slot of a cluster, the Redis key with the number of the last load that reached it."""
    return [f"forecache:{pipeline}:{{{tag}}}".encode() for tag in slot_tags()]


_BATCH = 1000
_SCAN = 5000
_PIPELINES = "forecache:pipelines"
_FLIP = """
local seen = redis.call('GET', KEYS[1])
if (seen or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""

_SET_MARKS = """#!lua flags=allow-cross-slot-keys
if not string.find(redis.call('INFO', 'server'), 'run_id:' .. ARGV[2] .. '\\r', 1, true) then return 0 end
for i = 3, #ARGV do redis.call('SET', ARGV[i], ARGV[1]) end
return 1
"""
_LEAST_MARK = """#!lua flags=allow-cross-slot-keys
local least = math.huge
for i = 1, #ARGV do least = math.min(least, tonumber(redis.call('GET', ARGV[i]) or 0)) end
return least
"""


class RedisStore:
    def __init__(self, client: Any, pipeline: str) -> None:
        self.client = client
        self.pipeline = pipeline

    def _state(self) -> tuple[bytes, dict[str, Any]]:
        raw = self.client.get(f"forecache:{self.pipeline}:current") or b""
        return raw, json.loads(raw) if raw else {}

    def current(self) -> Manifest | None:
        """The manifest of the served version, None before the first."""
        return self.current_load()[0]

    def current_load(self) -> tuple[Manifest | None, int]:
        """The manifest of the served version, None before the first, and the number of the load that completed it."""
        _, state = self._state()
        return (
            (manifest_from_json(json.dumps(state["manifest"]).encode()), state.get("load", 0)) if state else (None, 0)
        )

    def compared_at(self) -> str:
        """Time at which every entry was last compared with a local store; "" for never."""
        _, state = self._state()
        return str(state.get("compared_at", ""))

    def snapshot(self) -> RedisSnapshot:
        """Open the served version; raises NotFoundError if there is none, UnavailableError if Redis does not answer."""
        with raise_unavailable("Redis", "Start it, or set FORECACHE_REDIS_URL."):
            manifest, load = self.current_load()
        if manifest is None:
            raise NotFoundError(f"Redis serves nothing for {self.pipeline}.", remedy="Publish first.")
        return RedisSnapshot(self.client, manifest, load=load)

    def holds_version(self, manifest: Manifest) -> bool:
        """Return whether Redis has all segments of a version, as of the served one and of the one before it."""
        _, state = self._state()
        needed = {segment.id for segment in manifest.segments}
        return bool(state) and needed <= {*_segment_ids(state), *state["previous"]}

    def load(self, store: Store, *, verify: bool = False, progress: Progress = no_progress) -> dict[str, Any]:
        """Update Redis to a local store's served version: load missing segments, verify, flip, unlink unused ones.

        Another load from this store, as by a publish, waits meanwhile. With `verify`, segments that were loaded before
        are read too, and entries that Redis has lost or changed are loaded again. Returns `{"version", "loaded",
        "unlinked"}`: what Redis serves now, entries loaded, keys unlinked.

        Raises:
            SettingsError: Redis may evict entries, or the store has a live layer.
            CheckError: What Redis reads back is not what the manifest says; its served version is untouched.
            ConflictError: Another publisher flipped Redis meanwhile, or a node of a cluster was lost.
            UnavailableError: Redis does not answer, or no replica of a cluster's node has what was loaded.
        """
        if store.current() is None:
            raise NotFoundError(f"Nothing is published for {self.pipeline}.", remedy="Publish first.")
        if store.layout.live.exists():
            raise SettingsError(
                f"{self.pipeline} has a live layer, and Redis serves versions alone: its readers would answer what was "
                "known last night.",
                remedy="Publish it with backend lmdb; replicas pull it and tail the stream for themselves.",
            )
        remedy = "It serves this version or the one before. Start it, then run `forecache store push`."
        with raise_unavailable("Redis", remedy):
            self._check_eviction()
            if is_looking():
                return self._look(store)
            self.client.sadd(_PIPELINES, self.pipeline)
            with targets_lock(store.layout, progress), store.snapshot() as snapshot:
                return self._load(store, snapshot, verify, progress)

    def _look(self, store: Store) -> dict[str, Any]:
        """Return what `load` returns if Redis has the local store's served version; else there is work."""
        _, state = self._state()
        manifest = store.current()
        assert manifest is not None
        if state.get("manifest") != json.loads(manifest.to_json()) or self._has_lost_entries(state):
            begin_work(f"loading {self.pipeline} into Redis")
        return {"version": manifest.version, "loaded": 0, "unlinked": 0}

    def _check_eviction(self) -> None:
        policy = evicting_policy(self.client)
        if policy:
            raise SettingsError(
                f"Redis has the maxmemory-policy {policy}: it would drop entries, and a key that was published would "
                "be answered as unknown.",
                remedy="Set maxmemory-policy to noeviction, or maxmemory to 0. Redis still serves the version before.",
            )

    def _load(self, store: Store, snapshot: Snapshot, verify: bool, progress: Progress) -> dict[str, Any]:
        manifest = snapshot.manifest
        primaries = list_primaries(self.client)
        raw, state = self._state()
        store.confirm()  # a process that stood still until now could set Redis back
        verify = verify or self._has_lost_entries(state)
        served = state.get("manifest") == json.loads(manifest.to_json())
        if served and not verify:
            return {"version": manifest.version, "loaded": 0, "unlinked": self._unlink(state)}
        complete = set(_segment_ids(state))
        loaded = 0
        for number, segment in enumerate(manifest.segments):
            is_there = segment.id in complete
            if verify or not is_there:
                loaded += self._load_segment(snapshot, number, segment, progress, compare=is_there)
        self._verify(snapshot, set() if verify else complete)
        after = {
            "store": manifest.store,
            "version": manifest.version,
            "manifest": json.loads(manifest.to_json()),
            "load": state.get("load", 0) + 1,
            "previous": state["previous"] if served else _segment_ids(state),
            "compared_at": current_timestamp() if verify else state.get("compared_at", ""),
        }
        self._mark_slots(after["load"], primaries)
        if not self.client.eval(_FLIP, 1, f"forecache:{self.pipeline}:current", raw, json.dumps(after).encode()):
            raise ConflictError(
                f"Another publisher flipped {self.pipeline} in Redis meanwhile.", remedy="Its version stands."
            )
        wait_for_replicas(self.client)
        store.confirm()  # another one may be loading segments that nothing names yet
        return {"version": manifest.version, "loaded": loaded, "unlinked": self._unlink(after)}

    def remove(self) -> None:
        """Remove the store from Redis, so that readers serve it no more; killed anywhere, the next call goes on."""
        with raise_unavailable("Redis", "Start it, then run again."):
            self.client.srem(_PIPELINES, self.pipeline)
            self.client.delete(f"forecache:{self.pipeline}:current")
            self._unlink({})
            if is_cluster(self.client):
                run_pipelined(self.client, "unlink", [(name,) for name in mark_names(self.pipeline)])

    def _has_lost_entries(self, state: dict[str, Any]) -> bool:
        """Return whether a node of a cluster lacks what the last load wrote."""
        if not state or not is_cluster(self.client):
            return False
        least = run_on_each_primary(self.client, _LEAST_MARK, mark_names(self.pipeline))
        return min(map(int, least)) < state.get("load", 0)

    def _mark_slots(self, load: int, primaries: dict[str, str]) -> None:
        """Write the number of a load that is complete into each slot of a cluster; its replicas have all of it then.

        Raises ConflictError if another process serves a slot than when the load began: it may lack entries.
        """
        if not is_cluster(self.client):
            return
        wait_for_replicas(self.client)
        names = mark_names(self.pipeline)
        results = run_on_each_primary(self.client, _SET_MARKS, names, lambda node: (load, primaries.get(node, "")))
        if not all(results):
            raise ConflictError(
                f"A node of the Redis Cluster was lost, added or restarted while {self.pipeline} was loaded.",
                remedy="The version before is served. `forecache store push` loads it again.",
            )
        wait_for_replicas(self.client)

    def _load_segment(
        self, snapshot: Snapshot, number: int, segment: SegmentInfo, progress: Progress, *, compare: bool
    ) -> int:
        """Load the entries of a segment, with `compare` only those that differ in Redis; returns their number."""
        # The set is written first, so that a later load finds and unlinks the segment of one that was killed.
        self.client.sadd(f"forecache:{self.pipeline}:segments", segment.id)
        prefix, read, loaded = key_prefix(self.pipeline, segment), 0, 0
        what = f"Comparing {segment.id} with Redis" if compare else f"Loading {segment.id} into Redis"
        for rows in split_batches(snapshot.segment_items(number), _BATCH):
            entries = {entry_key(prefix, key): entry for key, entry in rows}
            if compare:
                there = zip(entries.items(), read_values(self.client, [[name] for name in entries]), strict=True)
                entries = {name: entry for (name, entry), found in there if found != entry}
            self._set_many(entries)
            loaded += len(entries)
            read += len(rows)
            progress(what, read / max(1, segment.entries))
        return loaded

    def _set_many(self, entries: dict[bytes, bytes]) -> None:
        if not entries:
            return
        if is_cluster(self.client):
            run_pipelined(self.client, "set", entries.items())
        else:
            self.client.mset(entries)

    def _verify(self, snapshot: Snapshot, complete: set[str]) -> None:
        """Compare what Redis reads with the local version: every key of the segments that were loaded."""
        there = RedisSnapshot(self.client, snapshot.manifest, load=0)
        for number, segment in enumerate(snapshot.manifest.segments):
            if segment.id in complete:
                continue
            for rows in split_batches(snapshot.segment_items(number), _BATCH):
                keys = [key for key, _ in rows]
                expected = snapshot.get_entries(keys)
                found = there.get_entries(keys)
                if found != expected:
                    place = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
                    raise CheckError(
                        f"Redis reads {found[place]!r} for {keys[place]!r} where {expected[place]!r} was loaded.",
                        remedy="Redis still serves the version before. Check its memory and eviction policy.",
                    )

    def _unlink(self, state: dict[str, Any]) -> int:
        """Remove segments that neither the served version nor the one before it uses; returns the number of keys."""
        keep = {*_segment_ids(state), *state.get("previous", ())}
        known = {name.decode() for name in self.client.smembers(f"forecache:{self.pipeline}:segments")}
        unlinked = 0
        for segment_id in sorted(known - keep):
            pattern = f"{self.pipeline}:{segment_id}:*"
            for keys in split_batches(self.client.scan_iter(match=pattern, count=_SCAN), _BATCH):
                if is_cluster(self.client):
                    unlinked += sum(run_pipelined(self.client, "unlink", [(key,) for key in keys]))
                else:
                    unlinked += int(self.client.unlink(*keys))
            self.client.srem(f"forecache:{self.pipeline}:segments", segment_id)
        return unlinked


def pipelines_in_redis(client: Any) -> set[str]:
    """Names of the pipelines that have been loaded; one whose first load is in progress serves nothing yet."""
    return {name.decode() for name in client.smembers(_PIPELINES)}


def open_redis_store(settings: Settings, pipeline_name: str) -> RedisStore:
    """The Redis side of a pipeline's store; see `connect` for what it raises."""
    settings.refuse_in_trial("read or write Redis")
    return RedisStore(connect(settings.redis_url), pipeline_name)


def _segment_ids(state: dict[str, Any]) -> list[str]:
    return [segment["id"] for segment in state["manifest"]["segments"]] if state else []


def split_batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
