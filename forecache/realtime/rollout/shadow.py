"""Shadow requests: the candidate also scores requests that were answered; the result is logged, never sent."""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING

from forecache.reader.http.problems import Problem
from forecache.realtime.answer.answered import Answered, Times
from forecache.realtime.answer.model_path import Refused
from forecache.realtime.deadline.clock import Clock
from forecache.realtime.request.parsed import ParsedRequest
from forecache.realtime.served import Served

if TYPE_CHECKING:
    from forecache.realtime.answer.engine import Engine
    from forecache.realtime.deadline.backlog import Backlog

logger = logging.getLogger("forecache.realtime")
_MOST = 4
"""Most requests of one worker that the candidate scores at a time."""


class Shadow:
    """Scores requests by a candidate while the worker is otherwise idle.

    Args:
        candidate: With its path to the model, or an `UnavailablePath`.

    Attributes:
        skipped: Number of requests that there was no time for.
    """

    def __init__(self, candidate: Served, engine: "Engine", backlog: "Backlog") -> None:
        self._candidate, self._engine, self._backlog = candidate, engine, backlog
        self._tasks: set[asyncio.Task[None]] = set()
        self.skipped = 0

    def offer(self, request: ParsedRequest, parse: Callable[[Served], ParsedRequest], clock: Clock) -> None:
        """Score an answered request soon, or skip it if other requests wait.

        Args:
            request: As parsed for the current release.
            parse: Parses it for a given release.
        """
        if len(self._tasks) >= _MOST or self._backlog.waiting:
            self.skipped += 1
            return
        task = asyncio.get_running_loop().create_task(self._score(request, parse, clock.deadline_ms))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _score(
        self, request: ParsedRequest, parse: Callable[[Served], ParsedRequest], deadline_ms: float
    ) -> None:
        candidate, began = self._candidate, perf_counter_ns()
        clock = Clock(began, began + int(deadline_ms * 1e6), deadline_ms)
        try:
            try:
                taken = parse(candidate)
            except Problem:
                answered = Answered(
                    request.items, None, "order_given", why=Refused.reason, request_id=request.request_id
                )
            else:
                taken.request_id = request.request_id
                request, times = taken, Times(parse=perf_counter_ns() - began)
                answered = await self._engine.answer(candidate, request, clock, times)
            answered.elapsed = perf_counter_ns() - began
            if candidate.log is not None:
                candidate.log.add(request, answered, clock)
        except Exception as error:  # noqa: BLE001  # nobody waits for it
            logger.error("A shadow request to %s failed: %s", candidate.name, error)
