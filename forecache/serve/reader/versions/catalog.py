"""The served version of each pipeline: new versions in the store are opened, warmed and swapped in."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from forecache.base.errors import DamagedError, ForecacheError, NotFoundError
from forecache.base.plugins import load_hook
from forecache.base.settings import Settings
from forecache.base.table_names import NAME, kept_name, split_kept_name
from forecache.serve.reader.versions.answers import Version, VersionAnswers
from forecache.serve.reader.versions.damage import (
    DamagedVersions,
    Scrubber,
    open_newest_undamaged,
    verify_open_versions,
)
from forecache.serve.reader.versions.describe import encode_history, encode_served, hash_version
from forecache.serve.reader.versions.follow import Follow, RunOnLoop, VersionFollower, Watcher
from forecache.serve.reader.versions.live_answers import NoVersion, answers_of
from forecache.serve.reader.versions.live_layers import LayerLag, LiveLayers, redis_layer_error
from forecache.serve.reader.versions.partial_versions import PartialVersion, PartialVersions
from forecache.serve.reader.worker_metrics import DAMAGED, LIVE, SWAP_FAILURES, VERIFIED, WorkerMetrics
from forecache.serve.store import Manifest, Snapshot, Store, open_store

logger = logging.getLogger("forecache.reader")
Current = dict[str, Manifest | None]
_VERIFYING = "The reader is still verifying the published versions."


class Catalog:
    """The served versions of all pipelines; of `answers` and `failures` see `VersionFollower`."""

    def __init__(self, settings: Settings, metrics: WorkerMetrics) -> None:
        self.settings = settings
        self._follower = VersionFollower[VersionAnswers](logger, noun="version", count_failure=self._count_failure)
        self.answers, self.failures = self._follower.served, self._follower.failures
        self.waiting: frozenset[str] = frozenset()  # pipelines whose store has no published version
        self.damaged: set[str] = set()  # pipelines with no undamaged version left to serve
        self.history: dict[str, bytes] = {}  # the retained versions of each pipeline, newest first, as JSON
        self.lag = LayerLag()
        self.warm = False  # every version found at the start is verified in memory, or is read from the remote
        self.partial = PartialVersions(settings)
        self._has_verified = False
        self._layers, self._damage = LiveLayers(), DamagedVersions()
        self._scrub = Scrubber(self._local_snapshots, self._replace_damaged, every_s=settings.reader_scrub_s)
        self._metrics = metrics
        self._seen: dict[str, object] = {}
        self._redis: Any = load_hook("redis", "source")(settings.redis_url) if settings.redis_url else None
        self._remote: Current | None = None
        self._in_redis: set[str] = set()
        self._watcher: Watcher | None = None

    def open(self) -> None:
        """Open, before the first request, what this worker's predecessor verified; the thread opens the rest."""
        for name in self._pipelines():
            store = open_store(self.settings, name)
            try:
                manifest, offset = store.current(), self._metrics.pipeline_offset(name)
                if manifest is None or self._metrics.cells[offset + VERIFIED] != hash_version(manifest):
                    continue
                started, layer = time.perf_counter(), self._layers.open_layer(store)
                snapshot = store.snapshot(manifest.version)
                self._follower.install(name, self._prepare_answers(name, snapshot, started, layer=layer))
            except (ForecacheError, OSError):
                continue  # the watching thread reports the error

    def watch(self, loop: asyncio.AbstractEventLoop, each_turn: Callable[[], None], after: Sequence[Follow]) -> None:
        """Start the thread that calls `each_turn`, polls the versions and calls `after`, a few times a second."""

        def poll_once() -> None:
            if not self._has_verified:
                verify_open_versions(self._local_snapshots(), self._replace_damaged)
            each_turn()
            self._poll(watcher.run_on_loop)
            self._has_verified = True

        watcher = self._watcher = Watcher(loop, poll_once, self._metrics.record_heartbeat, after)
        self.partial.start()
        watcher.start()
        self._scrub.start()

    def find_reason(self, name: str) -> str:
        """The reason why a pipeline that is not served may be served soon; "" if that is not so."""
        return self.partial.find_reason(name) or ("" if self.warm else _VERIFYING)

    @property
    def is_following(self) -> bool:
        """True while polls for new versions succeed; see `Watcher.is_polling`."""
        return self._watcher is None or self._watcher.is_polling

    def check_for_damage(self) -> None:
        """Scrub now, because a read failed in a way that is impossible with undamaged files."""
        self._scrub.scrub_now()

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
        self._scrub.close()
        self.partial.close()
        for answers in self.answers.values():
            answers.snapshot.close()
        self.answers.clear()
        self._layers.close()

    def _pipelines(self) -> set[str]:
        folder = self.settings.store_path
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return {name for name in names if NAME.fullmatch(name)}

    def _local_snapshots(self) -> list[tuple[Store, Snapshot]]:
        served = [(name, each.snapshot) for name, each in list(self.answers.items())]
        return [(open_store(self.settings, name), found) for name, found in served if isinstance(found, Snapshot)]

    def _replace_damaged(self, store: Store, snapshot: Snapshot, reason: str) -> None:
        """Mark a served version as damaged, so that the watching thread replaces it.

        Another version may share files with this one, so they are verified again before that one is served.
        """
        snapshot.discard_verification()
        self._damage.record(store, snapshot.manifest.identity, reason)
        self._metrics.cells[self._metrics.pipeline_offset(store.pipeline) + VERIFIED] = 0

    def _poll(self, run_on_loop: RunOnLoop) -> None:
        found = self._pipelines()
        self._remote = None if self._redis is None else self._redis.read_current()
        waiting = set()

        def serve(name: str) -> bool:
            store = open_store(self.settings, name)
            try:
                if not self._serve_current(name, store, run_on_loop):
                    waiting.add(name)
                    return not self.partial.may_have(name)
            except DamagedError as error:
                self._follower.record_failure(name, error)  # first, so that a request in between gets this error
                self._withdraw(name, store, run_on_loop)
                return False
            self.damaged.discard(name)
            return True

        self._follower.follow(found, serve)
        if self._redis is not None and self._remote is not None:
            waiting |= self._poll_redis(self._redis, self._remote, run_on_loop, found - waiting)
        self._serve_partial((found - waiting) | self._in_redis, run_on_loop)
        for name in self.answers.keys() - found - self._in_redis - self.partial.opened.keys():
            if (kept := split_kept_name(name)) is not None and kept[0] in found | self._in_redis:
                self._retire(name, run_on_loop)
                continue
            # A missing folder is more often a mount that failed for a moment than a pipeline taken out of service.
            gone = NotFoundError(f"The store of {name} is gone.", remedy="Restart to stop serving it.")
            self._follower.record_failure(name, gone)
        self.lag.check_layers(open_store(self.settings, name) for name in sorted(found))
        self.waiting = frozenset(waiting - self.answers.keys())

    def _poll_redis(self, source: Any, current: Current, run_on_loop: RunOnLoop, here: set[str]) -> set[str]:
        """Serve from Redis the pipelines without a local store; returns those that wait for their first version."""
        waiting: set[str] = set()
        self._in_redis = current.keys() - here
        # Kept contracts first: look-ups lack none of them at the moment at which their view leaves it.
        for name in sorted(self._in_redis, key=lambda name: split_kept_name(name) is None):
            manifest, served = current[name], self.answers.get(name)
            if manifest is None:
                waiting.add(name)
            elif (
                served is None
                or served.manifest != manifest
                or isinstance(served.snapshot, PartialVersion)
                or source.has_loaded_again(served.snapshot)
            ):
                self.history[name] = encode_served(manifest)
                self._swap(name, source.version(manifest), run_on_loop, time.perf_counter())
        return waiting

    def _serve_partial(self, here: set[str], run_on_loop: RunOnLoop) -> None:
        """Serve what was opened in the remote of pipelines that are neither on this machine nor in Redis."""
        partial = (PartialVersion, NoVersion)
        here |= {name for name, each in self.answers.items() if not isinstance(each.snapshot, partial)}
        self.partial.note_served(here)
        is_settled = self.partial.is_settled
        for name, error in list(self.partial.failures.items()):
            if name not in here:
                self._follower.record_failure(name, error)

        def serve(name: str) -> bool:
            started, version, served = time.perf_counter(), self.partial.opened[name], self.answers.get(name)
            layer = self._layers.open_layer(open_store(self.settings, name))
            if served is None or (served.snapshot, served.layer) != (version, layer):
                self.history[name] = encode_served(version.manifest)
                self._swap(name, version, run_on_loop, started, layer=layer)
            return name not in self.partial.failures

        self._follower.follow(self.partial.opened.keys() - here, serve)
        self.warm = self.warm or is_settled

    def _serve_current(self, name: str, store: Store, run_on_loop: RunOnLoop) -> bool:
        """Serve the current version, or the last undamaged one before it (else DamagedError); False without any."""
        layer = self._layers.open_layer(store)
        serves_alone = layer is not None and layer.serves_alone and not self.partial.is_awaited(store)
        pointer = store.pointer()
        served = self.answers.get(name)
        before = served.snapshot if served is not None and isinstance(served.snapshot, Snapshot) else None
        is_partial = served is not None and isinstance(served.snapshot, PartialVersion)
        if is_partial and pointer.serving is not None and self.partial.is_newer(name, pointer):
            return False
        if pointer.serving is not None:
            started = time.perf_counter()
            snapshot = open_newest_undamaged(store, pointer, before, self._damage)
            wanted = snapshot.manifest.identity == (pointer.store, pointer.serving)
            fallback_for = None if wanted else pointer.serving
            parts = (snapshot, fallback_for, layer)
            if served is None or (served.snapshot, served.fallback_for, served.layer) != parts:
                if before is not None and before.manifest.contract not in ("", snapshot.manifest.contract):
                    self._serve_kept(kept_name(name, before.manifest.contract), run_on_loop)
                self._swap(name, snapshot, run_on_loop, started, layer=layer, fallback_for=fallback_for)
            cell = self._metrics.pipeline_offset(name) + VERIFIED
            self._metrics.cells[cell] = hash_version(snapshot.manifest) if wanted else 0
        elif layer is None or not serves_alone:
            return False
        else:
            if name in (self._remote or ()):
                raise redis_layer_error(name)
            # A store whose pointer is gone keeps the version that is open.
            if served is None or (served.layer != layer and not served.manifest.version):
                self._swap(name, NoVersion(name, layer.declared), run_on_loop, time.perf_counter(), layer=layer)
        folder = store.layout.versions
        seen = (pointer, frozenset(os.listdir(folder)) if folder.is_dir() else None)
        if seen != self._seen.get(name):
            self.history[name] = encode_history(store)
            self._seen[name] = seen
        return True

    def _serve_kept(self, name: str, run_on_loop: RunOnLoop) -> None:
        """Serve a contract that its view is about to leave, if it is kept: look-ups lack it at no time.

        It was published before the view's next contract, but perhaps after this poll has listed the stores.
        """
        store = open_store(self.settings, name)
        with suppress(ForecacheError, OSError):  # the poll of that store reports it
            if store.layout.root.is_dir():
                self._serve_current(name, store, run_on_loop)

    def _retire(self, name: str, run_on_loop: RunOnLoop) -> None:
        """Stop serving a kept contract that no release names any more: its store was removed."""
        old = self._follower.swap(name, None, run_on_loop)
        self._follower.clear_failure(name)
        self.history.pop(name, None)
        self._seen.pop(name, None)
        self._metrics.cells[self._metrics.pipeline_offset(name) + LIVE] = 0
        if old is not None:
            old.snapshot.close()

    def _swap(self, name: str, version: Version, run_on_loop: RunOnLoop, started: float, **more: Any) -> None:
        """Serve another version, and close the one before; `more` as for `answers_of`."""
        old = self._follower.swap(name, self._prepare_answers(name, version, started, **more), run_on_loop)
        if old is not None and old.snapshot is not version:
            old.snapshot.close()

    def _prepare_answers(self, name: str, version: Version, started: float, **more: Any) -> VersionAnswers:
        """The answers from a version; `more` as for `answers_of`."""
        offset = self._metrics.pipeline_offset(name)
        answers = answers_of(version, offset=offset, **more)
        answers.refresh(time.time())
        number, fallback = answers.manifest.version, answers.fallback_for is not None
        seconds = time.perf_counter() - started
        self._metrics.count_swap(offset, number, seconds=seconds, mapped_bytes=version.mapped_bytes, fallback=fallback)
        logger.info("Serving %s version %d, ready after %.3f s.", name, number, seconds)
        if fallback:
            logger.error("That is a fallback: version %d of %s is damaged.", answers.fallback_for, name)
        return answers

    def _withdraw(self, name: str, store: Store, run_on_loop: RunOnLoop) -> None:
        served = self.answers.get(name)
        if served is not None and not self._damage.reason_of(store, served.manifest.identity):
            return  # only the pointer is damaged
        self.damaged.add(name)
        offset = self._metrics.pipeline_offset(name)
        self._metrics.cells[offset + DAMAGED] = 1
        if served is not None:
            self._metrics.cells[offset + LIVE] = 0
            self._follower.swap(name, None, run_on_loop)
            served.snapshot.close()

    def _count_failure(self, name: str) -> None:
        self._metrics.cells[self._metrics.pipeline_offset(name) + SWAP_FAILURES] += 1
