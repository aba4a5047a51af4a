"""Base of the protocols other than the reader's own: read a body within the deadline, and answer its requests."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any

from forecache.reader.connections.call import Call
from forecache.reader.http import problems
from forecache.reader.http.body_types import check_encoding
from forecache.reader.http.extension import Context
from forecache.reader.http.problems import Problem
from forecache.realtime.answer.answered import Answered, Times
from forecache.realtime.answer.engine import Engine
from forecache.realtime.answer.model_path import TooLate
from forecache.realtime.deadline.backlog import SLICE_NS, Backlog
from forecache.realtime.deadline.clock import Clock, clock_of
from forecache.realtime.http.columns import Asked
from forecache.realtime.http.scored import Scored, scored
from forecache.realtime.models import Models
from forecache.realtime.request.parse import REQUEST_ID
from forecache.realtime.request.parsed import ParsedRequest
from forecache.realtime.served import Served

logger = logging.getLogger("forecache.realtime")
_STARTED_AT_ONCE = 16
"""Requests of one body for other processes that are started before other work on the loop gets its turn."""


class Exchange:
    """Reads bodies and answers requests, with the same deadline, queue and fallbacks as the reader's own protocol."""

    def __init__(self, context: Context, engine: Engine, backlog: Backlog) -> None:
        self.context = context
        self._engine, self._backlog = engine, backlog

    async def body(self, served: Served, call: Call) -> tuple[bytes, Clock]:
        """Read the body of a request, and its deadline.

        Raises:
            Problem: The client has no access, a header or the body is wrong, or the deadline has passed.
            ClientGone: The client has disconnected.
        """
        context, settings, headers = self.context, self.context.settings, call.headers
        if context.access is not None:
            context.access.check(headers, served.name)
        check_encoding(headers)
        clock = clock_of(call, served.loaded.release.deadline_ms)
        body = await call.read_body(settings.reader_max_body_bytes, context.bodies, settings.reader_request_timeout_s)
        return body, clock

    async def answers(self, served: Served, asked: Sequence[Asked], clock: Clock, request_id: str) -> list[Scored]:
        """Answer the requests of one body, in their order.

        Args:
            request_id: For the answers, if the model has no field of that name.

        Raises:
            Problem: A request is wrong.
        """
        try:
            return await self._answers(served, asked, clock, request_id)
        except Problem:
            raise
        except Exception:
            logger.exception("A request to %s failed.", served.name)
            self.context.catalog.suspect()
            raise Problem(problems.INTERNAL, "This is a defect; see the reader's log for the cause.") from None

    async def _answers(self, served: Served, asked: Sequence[Asked], clock: Clock, request_id: str) -> list[Scored]:
        began = perf_counter_ns()
        own = any(field.name == REQUEST_ID for field in served.loaded.release.request)
        known = {REQUEST_ID: request_id} if request_id and not own else {}
        takers = [partial(_taken, {**each.request, **known}, each.candidates) for each in asked]
        split = served.split
        parsed = [(served, take(served)) if split is None else split.assigned(take) for take in takers]
        if served.log is not None:
            if len(parsed) > 1 and not own and request_id:
                for place, (_, request) in enumerate(parsed):
                    request.request_id = f"{request_id}/{place}"  # each request has its own row in the log
            for _, request in parsed:
                served.log.identify(request)
        parse = (perf_counter_ns() - began) // (len(asked) or 1)
        found = await self._found(served, parsed, clock, began, parse)
        if split is not None:
            for (_, request), take in zip(parsed, takers, strict=True):
                split.after(request, take, clock)
        return found

    async def _found(
        self, served: Served, parsed: Sequence[tuple[Served, ParsedRequest]], clock: Clock, began: int, parse: int
    ) -> list[Scored]:
        """Answer requests, each by its release: all on this thread, or some in other processes."""
        if not any(not by.path.in_loop or by.lookups.remote() for by, _ in parsed):
            return await self._here(served, parsed, clock, parse)
        waiting: list[asyncio.Task[Scored]] = []
        for by, request in parsed:
            times = Times(began - clock.arrived, parse)
            waiting.append(asyncio.create_task(self._later(by, request, clock, times)))
            if len(waiting) % _STARTED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return await asyncio.gather(*waiting)

    async def _here(
        self, served: Served, parsed: Sequence[tuple[Served, ParsedRequest]], clock: Clock, parse: int
    ) -> list[Scored]:
        """Answer on this thread in slices of time; other requests are answered in between."""
        found: list[Scored] = []
        failures: list[Exception] = []
        given_up = ""

        def run(why: str) -> None:
            nonlocal given_up
            given_up = why
            first, began = len(found), perf_counter_ns()
            try:
                while len(found) < len(parsed) and perf_counter_ns() - began < SLICE_NS:
                    behind = len(parsed) - len(found) - 1
                    found.append(self._now(*parsed[len(found)], clock, parse, why, behind=behind))
            except Exception as error:  # noqa: BLE001  # raised again below, outside of the queue
                failures.append(error)
                return
            answers = [each.answered for each in found[first:]]
            if all(not each.why and each.scores is not None for each in answers):
                self._backlog.model_cost.took(perf_counter_ns() - began + parse)

        while len(found) < len(parsed):
            if found:
                await asyncio.sleep(0)
            now = perf_counter_ns()
            if given_up or not served.model_cost.fits(clock.until - now):
                run(given_up or TooLate.reason)
            elif self._backlog.is_calm(clock, now):
                run("")
            else:
                await self._backlog.join(clock, run)
            if failures:
                raise failures[0]
        return found

    async def _later(self, served: Served, request: ParsedRequest, clock: Clock, times: Times) -> Scored:
        answered = await self._engine.answer(served, request, clock, times)
        began = perf_counter_ns()
        done = _done(served, request, answered, clock)
        if not answered.why:
            served.learn(answered, served.on_loop_ns(times) + perf_counter_ns() - began)
        return done

    def _now(
        self, served: Served, request: ParsedRequest, clock: Clock, parse: int, why: str, *, behind: int
    ) -> Scored:
        """Answer one request of a body on this thread.

        Args:
            behind: Number of requests after it, for each of which there must be time for the last fallback.
        """
        began = perf_counter_ns()
        times = Times(wait=max(0, began - clock.arrived - parse), parse=parse)
        if not why and behind and not served.model_cost.fits(clock.until - began - behind * served.low_cost.estimate):
            why = TooLate.reason
        waiting = self._backlog.waiting + behind
        answered = self._engine.answer_now(served, request, clock, times, why=why, waiting=waiting)
        done = _done(served, request, answered, clock)
        served.learn(answered, perf_counter_ns() - began + parse)
        return done


def _done(served: Served, request: ParsedRequest, answered: Answered, clock: Clock) -> Scored:
    now = perf_counter_ns()
    answered.elapsed, answered.late = now - clock.arrived, clock.is_late(now)
    served.cells.count(answered, elapsed=answered.elapsed, late=answered.late)
    if served.log is not None:
        served.log.add(request, answered, clock)
    if served.drift is not None:
        served.drift.see(answered)
    return scored(answered, request.length, served)


def _taken(request: Mapping[str, Any], candidates: Mapping[str, Any] | None, by: Served) -> ParsedRequest:
    """Parse a request for a release."""
    return by.parser.of_values(request, candidates)


def not_ready(context: Context, models: Models) -> str:
    """Return the reason why this worker should get no requests to models; "" if it should."""
    if context.runtime.draining:
        return "The reader is draining: it got a signal to stop."
    if not context.catalog.warm:
        return "The reader is still reading the published versions into memory."
    if waiting := models.known - models.served.keys() - models.failures.keys():
        return f"The reader is still loading the release of {', '.join(sorted(waiting))}."
    return ""
