"""The way to a model that runs in processes of its own, guarded by a circuit breaker."""

import time

import numpy as np

from forecache.realtime.answer.model_path import Failed, Refused, WorkerLost
from forecache.realtime.breaker import PROBE_S, Breaker
from forecache.realtime.request.parsed import Found, ParsedRequest
from forecache.realtime.workers.counters import Counters
from forecache.realtime.workers.pool import Pool, Stalled

_FAULTS = (Failed, WorkerLost, Stalled)


class WorkerPath:
    """A `ModelPath` over a pool."""

    in_loop = False

    def __init__(self, pool: Pool, counters: Counters) -> None:
        self.pool, self.counters = pool, counters
        self.breaker = Breaker()

    def score_now(self, request: ParsedRequest, found: Found) -> np.ndarray:
        raise Refused("The model runs in processes of its own.")

    async def score(self, request: ParsedRequest, found: Found, until: float) -> np.ndarray:
        breaker, counters = self.breaker, self.counters
        now = time.monotonic()
        # A probe is worth nothing while no process could take it.
        if breaker.is_open and not (self.pool.has_way(now) and breaker.allows(now)):
            counters.add("breaker_refused")
            raise Refused("The circuit breaker is open.")
        try:
            scores = await self.pool.score(request, found, until)
        except _FAULTS:
            breaker.failed(time.monotonic(), pause_s=max(PROBE_S, self.pool.renewal_s))
            counters.put("breaker_open", int(breaker.is_open))
            counters.put("breaker_opened", breaker.num_opened)
            raise
        breaker.succeeded()
        counters.put("breaker_open", 0)
        return scores

    def expected_s(self) -> float:
        if not self.breaker.would_allow(time.monotonic()):
            return float("inf")
        return self.pool.expected_s()

    def close(self) -> None:
        self.pool.close()
