"""Shadow requests: the candidate also scores requests that were answered; the result is logged, never sent."""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING

from forecache.kit.http.problems import Problem
from forecache.realtime.answer.model_path import RefusedCallError
from forecache.realtime.answer.request_answer import RequestAnswer, StageTimes
from forecache.realtime.deadline.clock import RequestClock
from forecache.realtime.request.parsed_request import ParsedRequest
from forecache.realtime.served_release import ServedRelease

if TYPE_CHECKING:
    from forecache.realtime.answer.engine import AnswerEngine
    from forecache.realtime.deadline.request_queue import RequestQueue

logger = logging.getLogger("forecache.realtime")
_MOST = 4
"""Most requests of one worker that the candidate scores at a time."""


class ShadowScorer:
    """Scores requests by a candidate while the worker is otherwise idle.

    Args:
        candidate: With its path to the model, or an `UnavailablePath`.

    Attributes:
        skipped: Number of requests that there was no time for.
    """

    def __init__(self, candidate: ServedRelease, engine: "AnswerEngine", backlog: "RequestQueue") -> None:
        self._candidate, self._engine, self._backlog = candidate, engine, backlog
        self._tasks: set[asyncio.Task[None]] = set()
        self.skipped = 0

    def offer(
        self, request: ParsedRequest, parse: Callable[[ServedRelease], ParsedRequest], clock: RequestClock
    ) -> None:
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
        self, request: ParsedRequest, parse: Callable[[ServedRelease], ParsedRequest], deadline_ms: float
    ) -> None:
        candidate, began = self._candidate, perf_counter_ns()
        clock = RequestClock(began, began + int(deadline_ms * 1e6), deadline_ms)
        try:
            try:
                taken = parse(candidate)
            except Problem:
                answered = RequestAnswer(
                    request.items, None, "order_given", why=RefusedCallError.reason, request_id=request.request_id
                )
            else:
                taken.request_id = request.request_id
                request, times = taken, StageTimes(parse=perf_counter_ns() - began)
                answered = await self._engine.answer(candidate, request, clock, times)
            answered.elapsed = perf_counter_ns() - began
            if candidate.log is not None:
                candidate.log.add(request, answered, clock)
        except Exception as error:  # noqa: BLE001  # nobody waits for it
            logger.error("A shadow request to %s failed: %s", candidate.name, error)
