"""The Redis back end: versions of a store in Redis or Redis Cluster, loaded from verified local segments, and read.

Each entry of a segment is a string key of its own, so that nothing is ever overwritten. One key makes a version
current; segments that neither it nor the version before uses are unlinked afterwards, by Redis in the background.

    forecache:pipelines                       set of the pipelines that are, or are being, loaded
    forecache:<pipeline>:current              the pointer: {"store", "version", "manifest", "load", "previous", ...}
    forecache:<pipeline>:segments             set of segment ids that are, or are being, loaded
    <pipeline>:<segment id>:{k<key>}          an entry; the braces put a key's entries of all segments on one node
    forecache:<pipeline>:{<tag>}              the mark, in a cluster one for each of its slots: "<load> <load before>"

Loads have numbers that are not used twice. Marks are written after the entries, with the pointer or before it, and each
read of entries reads them too: a server that was emptied, set back, or loaded anew has not the mark that a reader
expects, so a key that is missing there is not answered as unknown, and the next load compares and loads everything.
"""

import json
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from forecache.base.errors import CheckError, ConflictError, NotFoundError, SettingsError
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
    wait_for_replicas,
)
from forecache.plugins.redis.snapshot import RedisSnapshot, entry_key, key_prefix, mark_names
from forecache.serve.store.layout import targets_lock
from forecache.serve.store.manifest import Manifest, SegmentInfo, current_timestamp, manifest_from_json
from forecache.serve.store.read.snapshot import Snapshot
from forecache.serve.store.store import Store

_BATCH = 1000
_SCAN = 5000
_PIPELINES = "forecache:pipelines"
_FLIP = """
local seen = redis.call('GET', KEYS[1])
if (seen or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
if KEYS[2] then redis.call('SET', KEYS[2], ARGV[3]) end
return 1
"""

_SET_MARKS = """#!lua flags=allow-cross-slot-keys
if not string.find(redis.call('INFO', 'server'), 'run_id:' .. ARGV[2] .. '\\r', 1, true) then return 0 end
for i = 3, #ARGV do redis.call('SET', ARGV[i], ARGV[1]) end
return 1
"""
_OTHER_MARKS = """#!lua flags=allow-cross-slot-keys
local others = 0
for i = 2, #ARGV do if redis.call('GET', ARGV[i]) ~= ARGV[1] then others = others + 1 end end
return others
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
        """The manifest of the served version, None before the first, and the number of its last load, 0 without marks.

        Outside of clusters, pointers of earlier releases have no marks.
        """
        _, state = self._state()
        if not state:
            return None, 0
        is_marked = "load_before" in state or is_cluster(self.client)
        return manifest_from_json(json.dumps(state["manifest"]).encode()), state.get("load", 0) if is_marked else 0

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
            # Never a number of before, also if Redis was emptied since: readers know by it what may be missing.
            "load": max(state.get("load", 0) + 1, time.time_ns() // 1_000_000),
            "load_before": state.get("load", 0),
            "previous": state["previous"] if served else _segment_ids(state),
            "compared_at": current_timestamp() if verify else state.get("compared_at", ""),
        }
        keys: list[str | bytes] = [f"forecache:{self.pipeline}:current"]
        if is_cluster(self.client):
            self._mark_slots(after, primaries)
        else:
            keys += mark_names(self.pipeline, in_cluster=False)
        if not self.client.eval(_FLIP, len(keys), *keys, raw, json.dumps(after).encode(), mark_of(after)):
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
            # Before the entries: a reader that still has the version must not take their keys for unknown.
            in_cluster = is_cluster(self.client)
            marks = mark_names(self.pipeline, in_cluster=in_cluster)
            if in_cluster:
                run_pipelined(self.client, "unlink", [(name,) for name in marks])
            else:
                self.client.unlink(*marks)
            self._unlink({})

    def _has_lost_entries(self, state: dict[str, Any]) -> bool:
        """Return whether a mark is not that of the last load, so that what it wrote may be lost."""
        if not state:
            return False
        mark = mark_of(state)
        names = mark_names(self.pipeline, in_cluster=is_cluster(self.client))
        if not is_cluster(self.client):
            return bool(self.client.get(names[0]) != mark)
        return any(run_on_each_primary(self.client, _OTHER_MARKS, names, lambda _: (mark,)))

    def _mark_slots(self, state: dict[str, Any], primaries: dict[str, str]) -> None:
        """Write the mark of a load that is complete into each slot of a cluster; its replicas have all of it then.

        Raises ConflictError if another process serves a slot than when the load began: it may lack entries.
        """
        wait_for_replicas(self.client)
        names, mark = mark_names(self.pipeline, in_cluster=True), mark_of(state)
        results = run_on_each_primary(self.client, _SET_MARKS, names, lambda node: (mark, primaries.get(node, "")))
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


def mark_of(state: dict[str, Any]) -> bytes:
    """The mark of the load that a pointer is of; pointers of earlier releases do not name the load before."""
    return f"{state.get('load', 0)} {state.get('load_before', 0)}".encode()


def _segment_ids(state: dict[str, Any]) -> list[str]:
    return [segment["id"] for segment in state["manifest"]["segments"]] if state else []


def split_batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
