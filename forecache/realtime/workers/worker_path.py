"""The path to a model in worker processes, behind a circuit breaker."""

import asyncio
import logging
import sys
import time

import numpy as np

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.realtime.answer.model_path import ModelCallError, RefusedCallError, WorkerLost
from forecache.realtime.answer.request_answer import StageTimes
from forecache.realtime.circuit_breaker import PROBE_S, CircuitBreaker
from forecache.realtime.release.load import OpenRelease
from forecache.realtime.request.parsed_request import LookupResult, ParsedRequest
from forecache.realtime.workers.path_counters import PathCounters
from forecache.realtime.workers.pool import ModelProcessPool, StalledWorkerError
from forecache.realtime.workers.release_scorer import LOAD, slot_layout_of
from forecache.realtime.workers.worker_config import WorkerConfig
from forecache.realtime.workers.worker_supervisor import SupervisorConfig

logger = logging.getLogger("forecache.realtime")
_FAULTS = (WorkerLost, StalledWorkerError)
_SLOTS = 64
_TELL_EVERY_S = 10.0
_BATCH_SHARE, _LONGEST_BATCH_S = 0.1, 0.005


def open_worker_path(
    loaded: OpenRelease, *, settings: Settings, loop: asyncio.AbstractEventLoop, counters: PathCounters
) -> "WorkerPath":
    """Start the worker processes of a release and wait until one is warm. Not to be called on the event loop.

    Raises:
        UnavailableError: No process becomes warm, or the system is not Linux.
    """
    if sys.platform != "linux":
        raise UnavailableError(
            "Models in processes of their own need Linux.", remedy='Declare the model with runs="loop".'
        )
    release = loaded.release
    layout = slot_layout_of(release, slots=_SLOTS, body_bytes=settings.reader_max_body_bytes)
    batch_s = min(_LONGEST_BATCH_S, _BATCH_SHARE * release.deadline_ms / 1e3)
    orders = WorkerConfig(LOAD, str(loaded.place), batch_s, layout)
    plan = SupervisorConfig(settings.reader_model_processes + 1, grows_bytes=settings.reader_model_growth_bytes)
    pool = ModelProcessPool(plan, orders, loop=loop, counters=counters)
    pool.open()
    return WorkerPath(pool, counters, name=release.name)


class WorkerPath:
    """A `ModelPath` over a pool of model processes."""

    in_loop = False

    def __init__(self, pool: ModelProcessPool, counters: PathCounters, *, name: str) -> None:
        self._name = name
        self._told = float("-inf")
        self.pool, self.counters = pool, counters
        self.breaker = CircuitBreaker()
        self.times = StageTimes()

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        raise RefusedCallError("The model runs in processes of its own.")

    async def score(self, request: ParsedRequest, found: LookupResult, until: float) -> np.ndarray:
        breaker, counters = self.breaker, self.counters
        now = time.monotonic()
        # A probe is useless while no process can take it.
        if breaker.is_open and not (self.pool.has_responsive_worker(now) and breaker.allow_request(now)):
            counters.add("breaker_refused")
            raise RefusedCallError("The circuit breaker is open.")
        try:
            scores = await self.pool.score(request, found, until)
        except ModelCallError as error:
            # Not counted by the breaker: one client's bad input must not block the model for all others.
            self._log_failure(error)
            raise
        except _FAULTS:
            was_open = breaker.is_open
            breaker.record_failure(time.monotonic(), pause_s=max(PROBE_S, self.pool.renewal_s))
            if breaker.is_open and not was_open:
                counters.add("breaker_open")
                counters.add("breaker_opened")
            raise
        if breaker.is_open:
            counters.add("breaker_open", -1)
        breaker.record_success()
        return scores

    def _log_failure(self, error: ModelCallError) -> None:
        """Log a failure, at most once in ten seconds."""
        now = time.monotonic()
        if now - self._told > _TELL_EVERY_S:
            self._told = now
            logger.error("The model of %s failed: %s", self._name, error)

    def expected_s(self) -> float:
        if not self.breaker.would_allow(time.monotonic()):
            return float("inf")
        return self.pool.expected_s()

    def close(self) -> None:
        self.pool.close()
        if self.breaker.is_open:
            self.counters.add("breaker_open", -1)
