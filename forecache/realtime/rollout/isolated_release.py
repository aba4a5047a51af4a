"""The candidate of a rollout in a reader: always in worker processes, so that it cannot harm the reader.

Not even its modules are imported by the reader, because code can hang, end the process or overwrite memory when it is
loaded. The current release runs on the event loop or in worker processes as usual. Beside a canary, the control is
opened like the candidate: the current release, for as many keys, so that times of equally placed models are compared.
"""

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecache.base.settings import Settings
from forecache.realtime.answer.model_path import ModelPath, RefusedCallError
from forecache.realtime.answer.request_answer import StageTimes
from forecache.realtime.release.folder import ReleaseFolder, read_release
from forecache.realtime.release.format import Release
from forecache.realtime.request.parsed_request import LookupResult, ParsedRequest
from forecache.realtime.score_cache import CachedPath
from forecache.realtime.workers.path_counters import PathCounters

logger = logging.getLogger("forecache.realtime")
PATIENCE_S = 60.0
"""A candidate that is not ready after this time counts as unavailable."""
_RETRY_S = 30.0


@dataclass(frozen=True)
class IsolatedRelease:
    """A release of which this process has only read the description; its code runs in worker processes."""

    release: Release
    place: Path
    reference: None = None

    def close(self) -> None:
        """Do nothing: no resources."""


class UnavailablePath:
    """A `ModelPath` that refuses all requests, for a candidate that cannot be loaded."""

    in_loop = False

    def __init__(self) -> None:
        self.times = StageTimes()

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        raise RefusedCallError("The release cannot be loaded here.")

    async def score(self, request: ParsedRequest, found: LookupResult, until: float) -> np.ndarray:
        raise RefusedCallError("The release cannot be loaded here.")

    def expected_s(self) -> float:
        return float("inf")

    def close(self) -> None:
        """Do nothing: no resources."""


class CandidateProcess:
    """The release that is being rolled out, or its control, opened in a separate thread without a time limit.

    Attributes:
        loaded: Its description; None until it could be read.
        path: To its processes; None until one is warm.
        failure: Why it is unavailable; "" during the first attempt, and once it is ready.
    """

    def __init__(
        self,
        settings: Settings,
        folder: ReleaseFolder,
        number: int,
        *,
        loop: asyncio.AbstractEventLoop,
        counters: PathCounters,
    ) -> None:
        self._settings, self._folder, self.number = settings, folder, number
        self._loop, self._counters = loop, counters
        self._began, self._again_at = time.monotonic(), 0.0
        self._thread: threading.Thread | None = None
        self._closed = threading.Lock()
        self._is_closed = False
        self.loaded: IsolatedRelease | None = None
        self.path: ModelPath | None = None
        self.failure = ""

    @property
    def is_late(self) -> bool:
        """True if it is unavailable, or not ready after a minute."""
        return self.path is None and bool(self.failure or time.monotonic() > self._began + PATIENCE_S)

    def open_if_due(self) -> None:
        """Open it, or try again half a minute after a failure."""
        if self.path is not None or (self._thread is not None and self._thread.is_alive()):
            return
        if time.monotonic() >= self._again_at:
            self._again_at = time.monotonic() + _RETRY_S
            self._thread = threading.Thread(target=self._open, name="forecache-candidate", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End its processes, also those that are still being started."""
        with self._closed:
            self._is_closed = True
            path, self.path = self.path, None
        if path is not None:
            path.close()

    def _open(self) -> None:
        from forecache.realtime.workers.worker_path import open_worker_path

        try:
            loaded = IsolatedRelease(read_release(self._folder, self.number), self._folder.release(self.number))
            self.loaded = loaded
            path: ModelPath = open_worker_path(
                loaded, settings=self._settings, loop=self._loop, counters=self._counters
            )
            if loaded.release.cache_bytes:  # as it will have once current: without it, it would look slow
                path = CachedPath(
                    path, most_bytes=loaded.release.cache_bytes, counters=self._counters, keeps_features=True
                )
        except Exception as error:  # noqa: BLE001  # after any error, the current release goes on answering
            reason = f"{type(error).__name__}: {error}"
            if reason != self.failure:
                logger.error("Release %d of %s cannot be asked: %s", self.number, self._folder.name, error)
            self.failure = reason
            return
        with self._closed:
            if not self._is_closed:
                self.path, self.failure = path, ""
                logger.info("Release %d of %s is ready in processes of its own.", self.number, self._folder.name)
                return
        path.close()
