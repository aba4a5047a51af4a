"""Versions in Redis, for pipelines without a store on this machine.

Each answer needs a round trip during which the worker serves no other request. So timeouts are short, and after a
failure Redis is not asked again for a moment.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from forecache.base.errors import UnavailableError
from forecache.base.table_names import split_kept_name
from forecache.plugins.redis.client import connect, evicting_policy, is_cluster
from forecache.plugins.redis.snapshot import RedisSnapshot
from forecache.plugins.redis.versions import RedisStore, pipelines_in_redis
from forecache.serve.store import Manifest

logger = logging.getLogger("forecache.reader")
TIMEOUT_S = 0.5
PAUSE_S = 0.5  # seconds after a failure during which Redis is not asked again

_T = TypeVar("_T")


class RedisSource:
    """The Redis behind a reader; connects at the first call and again after a failure."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client: Any = None
        self._rest_until = 0.0
        self._failed = False
        self._unsure: dict[str, tuple[str, str]] = {}
        self._loads: dict[str, int] = {}

    def call(self, question: Callable[[], _T]) -> _T:
        """The result of a call that talks to Redis; raises UnavailableError if it does not answer, or just did not."""
        import redis

        if time.monotonic() < self._rest_until:
            raise UnavailableError("Redis did not answer a moment ago.", remedy="Start it, or check the network.")
        try:
            return question()
        except redis.RedisError as error:
            self._rest_until = time.monotonic() + PAUSE_S
            raise UnavailableError(
                f"Redis does not answer: {error}.", remedy="Start it, or check the network."
            ) from None

    @property
    def is_cluster(self) -> bool:
        """True if it is a Redis Cluster; False before the first connection."""
        return self._client is not None and is_cluster(self._client)

    def read_current(self) -> dict[str, Manifest | None] | None:
        """The result of `current`; None if Redis cannot be read, which is logged once."""
        try:
            found = self.current()
        except Exception as error:  # noqa: BLE001  # the watching thread outlives Redis
            if not self._failed:
                logger.error("Redis cannot be read; nothing new is served from there: %s", error)
            self._failed = True
            return None
        self._failed = False
        return found

    def current(self) -> dict[str, Manifest | None]:
        """The served version of every pipeline in Redis, None during the first load; raises UnavailableError."""
        if self._client is None:
            self._client = connect(self.url, timeout_s=TIMEOUT_S)
        client = self._client
        policy = self.call(lambda: evicting_policy(client))
        loaded = dict[str, tuple[Manifest | None, int]]()
        # A view that changes hands its contract over before it loads the next one: the kept one is read after the view.
        while names := self.call(partial(pipelines_in_redis, client)) - loaded.keys():
            for name in sorted(names, key=lambda name: split_kept_name(name) is not None):
                loaded[name] = self.call(RedisStore(client, name).current_load)
        self._loads = {name: load for name, (_, load) in loaded.items()}
        found = {name: manifest for name, (manifest, _) in loaded.items()}
        for name in found if policy else list(self._unsure):
            compared_at = self.call(RedisStore(client, name).compared_at)
            if policy:
                self._unsure[name] = policy, compared_at
            elif self._unsure[name][1] != compared_at:
                del self._unsure[name]
        return found

    def eviction_policy(self, pipeline: str) -> str:
        """The policy under which Redis may have evicted entries since they were last compared; "" if it has not."""
        return self._unsure.get(pipeline, ("", ""))[0]

    def version(self, manifest: Manifest) -> "RemoteVersion":
        return RemoteVersion(self, self._client, manifest, load=self._loads[manifest.pipeline])

    def has_loaded_again(self, version: Any) -> bool:
        """Return whether Redis was loaded since a version that it still serves was opened: then open it again."""
        return isinstance(version, RemoteVersion) and version.load != self._loads[version.manifest.pipeline]


class RemoteVersion(RedisSnapshot):
    """One version in Redis, as the reader reads it.

    Every read raises UnavailableError if Redis does not answer, or does not have this version any more.
    """

    mapped_bytes = 0

    def __init__(self, source: RedisSource, client: Any, manifest: Manifest, *, load: int) -> None:
        super().__init__(client, manifest, load=load)
        self.source = source

    def get_entries(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.source.call(lambda: super(RemoteVersion, self).get_entries(keys))

    def newest_entries(self, values: Sequence[bytes | None]) -> list[bytes | None]:
        """As of any snapshot; UnavailableError also if an entry is missing that Redis may have evicted."""
        found = super().newest_entries(values)
        if None in found and (policy := self.source.eviction_policy(self.manifest.pipeline)):
            raise UnavailableError(
                f"Redis has or had the maxmemory-policy {policy}: a key that is missing may have been evicted.",
                remedy="Set it to noeviction, and load again with `forecache store push`.",
            )
        return found

    def warm(self) -> int:
        return 0
