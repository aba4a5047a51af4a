"""Which version of each pipeline is served: a thread watches the store, opens and warms what is new, swaps it in."""

import asyncio
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable

from forecache.errors import NotFoundError
from forecache.reader import remote
from forecache.reader.answers import Answers
from forecache.reader.describe import history
from forecache.reader.metrics import LIVE, MAPPED, SWAP_FAILURES, SWAP_US, SWAPS, VERSION, WorkerMetrics
from forecache.settings import Settings
from forecache.store import Store, open_store

logger = logging.getLogger("forecache.reader")
PIPELINE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
POLL_S = 0.25
Install = Callable[[str, Answers], None]


class Catalog:
    """What is served.

    Only the event loop's thread changes `answers`, and handlers never wait between taking one and being done with it.
    So once a swap has run on the loop, nobody uses the old snapshot, and the watching thread closes it.

    Attributes:
        answers: The served version of each pipeline.
        waiting: Pipelines whose store holds no published version.
        failures: Pipelines whose version cannot be read, and why; an older version may still be served.
        history: The retained versions of each pipeline, newest first, as JSON.
        warm: Whether everything found at the start has been read into memory.
    """

    def __init__(self, settings: Settings, metrics: WorkerMetrics) -> None:
        self.settings = settings
        self.answers: dict[str, Answers] = {}
        self.waiting: frozenset[str] = frozenset()
        self.failures: dict[str, str] = {}
        self.history: dict[str, bytes] = {}
        self.warm = False
        self._metrics = metrics
        self._seen: dict[str, object] = {}
        self._redis = remote.RedisSource(settings.redis_url) if settings.redis_url else None
        self._in_redis: set[str] = set()
        self._redis_failed = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open every published pipeline, before the first request and before any thread: not warmed yet."""
        self._poll(lambda name, answers: self._install(name, answers), warm=False)

    def watch(self, loop: asyncio.AbstractEventLoop, *, each_turn: Callable[[], None]) -> None:
        """Start the watching thread; `each_turn` runs in it a few times a second."""
        parent = os.getppid()

        def turn() -> None:
            if not self.warm:
                for answers in list(self.answers.values()):
                    answers.snapshot.warm()
                self.warm = True
            each_turn()
            self._poll(lambda name, answers: self._install_on(loop, name, answers), warm=True)

        def run() -> None:
            while True:
                try:
                    turn()
                except Exception:
                    logger.exception("Looking at the store failed; what is served stays.")
                if self._stop.wait(POLL_S):
                    return
                self._metrics.beat()
                if os.getppid() != parent:
                    logger.error("The reader's main process is gone; this worker stops.")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

        self._metrics.beat()
        self._thread = threading.Thread(target=run, name="forecache-swap", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching and close what is open."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        for answers in self.answers.values():
            answers.snapshot.close()
        self.answers.clear()

    def _poll(self, install: Install, *, warm: bool) -> None:
        folder = self.settings.store_path
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        found = {name for name in names if PIPELINE_NAME.fullmatch(name)}
        waiting = set()
        for name in sorted(found):
            store = open_store(self.settings, name)
            try:
                if not self._follow(name, store, install, warm=warm):
                    waiting.add(name)
            except Exception as error:  # noqa: BLE001  # the watcher outlives a broken store, and logs it
                self._fail(name, error)
            else:
                self.failures.pop(name, None)
        if self._redis is not None:
            waiting |= self._poll_redis(self._redis, install, here=found - waiting)
        for name in self.answers.keys() - found - self._in_redis:
            # A folder that is not there now is more often a mount that blinked than a pipeline taken out of service.
            self._fail(name, NotFoundError(f"The store of {name} is gone.", remedy="Restart to serve it no more."))
        self.waiting = frozenset(waiting - self.answers.keys())

    def _poll_redis(self, source: remote.RedisSource, install: Install, *, here: set[str]) -> set[str]:
        """Serve from Redis the pipelines that no store here serves; those of them that wait for their first version."""
        waiting: set[str] = set()
        try:
            current = source.current()
        except Exception as error:  # noqa: BLE001  # the watcher outlives Redis, and logs it
            if not self._redis_failed:
                logger.error("Redis cannot be read; nothing new is served from there: %s", error)
            self._redis_failed = True
            return waiting
        self._redis_failed = False
        self._in_redis = current.keys() - here
        for name in sorted(self._in_redis):
            manifest, served = current[name], self.answers.get(name)
            if manifest is None:
                waiting.add(name)
            elif served is None or served.manifest.version != manifest.version:
                started = time.perf_counter()
                version = source.version(manifest)
                offset = self._metrics.pipeline_offset(name)
                self.history[name] = remote.history(manifest)
                install(name, self._ready(name, Answers(version, offset=offset), started))
                if served is not None:
                    served.snapshot.close()
        return waiting

    def _follow(self, name: str, store: Store, install: Install, *, warm: bool) -> bool:
        """Serve what the store says is current; whether it says anything."""
        pointer = store.pointer()
        served = self.answers.get(name)
        if pointer.serving is not None and (served is None or served.manifest.version != pointer.serving):
            started = time.perf_counter()
            snapshot = store.snapshot(pointer.serving)
            if warm:
                snapshot.warm()
            offset = self._metrics.pipeline_offset(name)
            install(name, self._ready(name, Answers(snapshot, offset=offset), started))
            if served is not None:
                served.snapshot.close()
        seen = (pointer, tuple(store.version_numbers()), len(store.quarantined()))
        if seen != self._seen.get(name):
            self.history[name] = history(store)
            self._seen[name] = seen
        return pointer.serving is not None

    def _ready(self, name: str, answers: Answers, started: float) -> Answers:
        answers.refresh(time.time())
        cells, offset, snapshot = self._metrics.cells, answers.offset, answers.snapshot
        seconds = time.perf_counter() - started
        cells[offset + SWAP_US] = int(seconds * 1e6)
        cells[offset + SWAPS] += 1
        cells[offset + VERSION] = snapshot.manifest.version
        cells[offset + MAPPED] = snapshot.mapped_bytes
        cells[offset + LIVE] = 1
        logger.info("Serving %s version %d, ready after %.3f s.", name, snapshot.manifest.version, seconds)
        return answers

    def _install_on(self, loop: asyncio.AbstractEventLoop, name: str, answers: Answers) -> None:
        """Install on the loop's thread and wait until that has happened."""
        done = threading.Event()

        def swap() -> None:
            self._install(name, answers)
            done.set()

        loop.call_soon_threadsafe(swap)
        while not done.wait(0.5) and not self._stop.is_set():
            pass

    def _install(self, name: str, answers: Answers) -> None:
        self.answers[name] = answers

    def _fail(self, name: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        self._metrics.cells[self._metrics.pipeline_offset(name) + SWAP_FAILURES] += 1
        if self.failures.get(name) != reason:
            logger.error("The store of %s cannot be read; what was served stays.", name, exc_info=error)
        self.failures[name] = reason
