"""The path to a model in worker processes, behind a circuit breaker."""

import asyncio
import logging
import sys
import time

import numpy as np

from forecache.errors import UnavailableError
from forecache.realtime.answer.answered import Times
from forecache.realtime.answer.model_path import Failed, Refused, WorkerLost
from forecache.realtime.breaker import PROBE_S, Breaker
from forecache.realtime.release.load import OpenRelease
from forecache.realtime.request.parsed import Found, ParsedRequest
from forecache.realtime.workers.counters import Counters
from forecache.realtime.workers.orders import Orders
from forecache.realtime.workers.pool import Pool, Stalled
from forecache.realtime.workers.released import LOAD, layout_of
from forecache.realtime.workers.staff import StaffPlan
from forecache.settings import Settings

logger = logging.getLogger("forecache.realtime")
_FAULTS = (WorkerLost, Stalled)
_SLOTS = 64
_TELL_EVERY_S = 10.0
_BATCH_SHARE, _LONGEST_BATCH_S = 0.1, 0.005


def open_worker_path(
    loaded: OpenRelease, *, settings: Settings, loop: asyncio.AbstractEventLoop, counters: Counters
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
    layout = layout_of(release, slots=_SLOTS, body_bytes=settings.reader_max_body_bytes)
    batch_s = min(_LONGEST_BATCH_S, _BATCH_SHARE * release.deadline_ms / 1e3)
    orders = Orders(LOAD, str(loaded.place), batch_s, layout)
    plan = StaffPlan(settings.reader_model_processes + 1, grows_bytes=settings.reader_model_growth_bytes)
    pool = Pool(plan, orders, loop=loop, counters=counters)
    pool.open()
    return WorkerPath(pool, counters, name=release.name)


class WorkerPath:
    """A `ModelPath` over a pool of model processes."""

    in_loop = False

    def __init__(self, pool: Pool, counters: Counters, *, name: str) -> None:
        self._name = name
        self._told = float("-inf")
        self.pool, self.counters = pool, counters
        self.breaker = Breaker()
        self.times = Times()

    def score_now(self, request: ParsedRequest, found: Found, left_ns: int) -> np.ndarray:
        raise Refused("The model runs in processes of its own.")

    async def score(self, request: ParsedRequest, found: Found, until: float) -> np.ndarray:
        breaker, counters = self.breaker, self.counters
        now = time.monotonic()
        # A probe is useless while no process can take it.
        if breaker.is_open and not (self.pool.has_way(now) and breaker.allows(now)):
            counters.add("breaker_refused")
            raise Refused("The circuit breaker is open.")
        try:
            scores = await self.pool.score(request, found, until)
        except Failed as error:
            # Not counted by the breaker: one client's bad input must not block the model for all others.
            self._tell(error)
            raise
        except _FAULTS:
            was_open = breaker.is_open
            breaker.failed(time.monotonic(), pause_s=max(PROBE_S, self.pool.renewal_s))
            if breaker.is_open and not was_open:
                counters.add("breaker_open")
                counters.add("breaker_opened")
            raise
        if breaker.is_open:
            counters.add("breaker_open", -1)
        breaker.succeeded()
        return scores

    def _tell(self, error: Failed) -> None:
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
