"""Base of the protocols other than the reader's own: read a body within the deadline, and answer its requests."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any

from forecache.kit.http import problems
from forecache.kit.http.connections.call import HttpCall
from forecache.kit.http.problems import Problem
from forecache.plugins.protocols.columns import AnswerColumns, ProtocolRequest, answer_columns
from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.model_path import TooLate
from forecache.realtime.answer.request_answer import RequestAnswer, StageTimes
from forecache.realtime.deadline.clock import RequestClock, clock_of
from forecache.realtime.deadline.request_queue import SLICE_NS, RequestQueue
from forecache.realtime.request.parsed_request import ParsedRequest
from forecache.realtime.request.request_parser import REQUEST_ID
from forecache.realtime.served_models import ServedModels
from forecache.realtime.served_release import ServedRelease
from forecache.serve.reader.http.extension import ExtensionContext
from forecache.serve.reader.http.parsing import check_encoding

logger = logging.getLogger("forecache.realtime")
_STARTED_AT_ONCE = 16
"""Requests of one body for other processes that are started before other work on the loop gets its turn."""


class ProtocolHandler:
    """Reads bodies and answers requests, with the same deadline, queue and fallbacks as the reader's own protocol."""

    def __init__(self, context: ExtensionContext, engine: AnswerEngine, backlog: RequestQueue) -> None:
        self.context = context
        self._engine, self._backlog = engine, backlog

    async def read_body(self, served: ServedRelease, call: HttpCall) -> tuple[bytes, RequestClock]:
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

    async def answer_requests(
        self, served: ServedRelease, asked: Sequence[ProtocolRequest], clock: RequestClock, request_id: str
    ) -> list[AnswerColumns]:
        """Answer the requests of one body, in their order.

        Args:
            request_id: For the answers, if the model has no field of that name.

        Raises:
            Problem: A request is wrong.
        """
        try:
            return await self._parse_and_answer(served, asked, clock, request_id)
        except Problem:
            raise
        except Exception:
            logger.exception("A request to %s failed.", served.name)
            self.context.catalog.check_for_damage()
            raise Problem(problems.INTERNAL, "This is a defect; see the reader's log for the cause.") from None

    async def _parse_and_answer(
        self, served: ServedRelease, asked: Sequence[ProtocolRequest], clock: RequestClock, request_id: str
    ) -> list[AnswerColumns]:
        began = perf_counter_ns()
        own = any(field.name == REQUEST_ID for field in served.loaded.release.request)
        known = {REQUEST_ID: request_id} if request_id and not own else {}
        takers = [partial(_parse_for_release, {**each.request, **known}, each.candidates) for each in asked]
        split = served.split
        parsed = [(served, take(served)) if split is None else split.assign_release(take) for take in takers]
        if served.log is not None:
            if len(parsed) > 1 and not own and request_id:
                for place, (_, request) in enumerate(parsed):
                    request.request_id = f"{request_id}/{place}"  # each request has its own row in the log
            for _, request in parsed:
                served.log.assign_id(request)
        parse = (perf_counter_ns() - began) // (len(asked) or 1)
        found = await self._answer_all(served, parsed, clock, began, parse)
        if split is not None:
            for (_, request), take in zip(parsed, takers, strict=True):
                split.offer_to_shadow(request, take, clock)
        return found

    async def _answer_all(
        self,
        served: ServedRelease,
        parsed: Sequence[tuple[ServedRelease, ParsedRequest]],
        clock: RequestClock,
        began: int,
        parse: int,
    ) -> list[AnswerColumns]:
        """Answer requests, each by its release: all on this thread, or some in other processes."""
        if not any(not by.path.in_loop or by.lookups.is_remote() for by, _ in parsed):
            return await self._answer_on_loop(served, parsed, clock, parse)
        waiting: list[asyncio.Task[AnswerColumns]] = []
        for by, request in parsed:
            times = StageTimes(began - clock.arrived, parse)
            waiting.append(asyncio.create_task(self._answer_later(by, request, clock, times)))
            if len(waiting) % _STARTED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return await asyncio.gather(*waiting)

    async def _answer_on_loop(
        self,
        served: ServedRelease,
        parsed: Sequence[tuple[ServedRelease, ParsedRequest]],
        clock: RequestClock,
        parse: int,
    ) -> list[AnswerColumns]:
        """Answer on this thread in slices of time; other requests are answered in between."""
        found: list[AnswerColumns] = []
        failures: list[Exception] = []
        given_up = ""

        def run(why: str) -> None:
            nonlocal given_up
            given_up = why
            first, began = len(found), perf_counter_ns()
            try:
                while len(found) < len(parsed) and perf_counter_ns() - began < SLICE_NS:
                    behind = len(parsed) - len(found) - 1
                    found.append(self._answer_now(*parsed[len(found)], clock, parse, why, behind=behind))
            except Exception as error:  # noqa: BLE001  # raised again below, outside of the queue
                failures.append(error)
                return
            answers = [each.answered for each in found[first:]]
            if all(not each.why and each.scores is not None for each in answers):
                self._backlog.model_cost.add_sample(perf_counter_ns() - began + parse)

        while len(found) < len(parsed):
            if found:
                await asyncio.sleep(0)
            now = perf_counter_ns()
            if given_up or not served.model_cost.fits(clock.until - now):
                run(given_up or TooLate.reason)
            elif self._backlog.can_run_now(clock, now):
                run("")
            else:
                await self._backlog.enqueue(clock, run)
            if failures:
                raise failures[0]
        return found

    async def _answer_later(
        self, served: ServedRelease, request: ParsedRequest, clock: RequestClock, times: StageTimes
    ) -> AnswerColumns:
        answered = await self._engine.answer(served, request, clock, times)
        began = perf_counter_ns()
        done = _finish_answer(served, request, answered, clock)
        if not answered.why:
            served.learn(answered, served.loop_time_ns(times) + perf_counter_ns() - began)
        return done

    def _answer_now(
        self, served: ServedRelease, request: ParsedRequest, clock: RequestClock, parse: int, why: str, *, behind: int
    ) -> AnswerColumns:
        """Answer one request of a body on this thread.

        Args:
            behind: Number of requests after it, for each of which there must be time for the last fallback.
        """
        began = perf_counter_ns()
        times = StageTimes(wait=max(0, began - clock.arrived - parse), parse=parse)
        if not why and behind and not served.model_cost.fits(clock.until - began - behind * served.low_cost.estimate):
            why = TooLate.reason
        waiting = self._backlog.waiting + behind
        answered = self._engine.answer_now(served, request, clock, times, why=why, waiting=waiting)
        done = _finish_answer(served, request, answered, clock)
        served.learn(answered, perf_counter_ns() - began + parse)
        return done


def _finish_answer(
    served: ServedRelease, request: ParsedRequest, answered: RequestAnswer, clock: RequestClock
) -> AnswerColumns:
    now = perf_counter_ns()
    answered.elapsed, answered.late = now - clock.arrived, clock.is_late(now)
    served.cells.count(answered, elapsed=answered.elapsed, late=answered.late)
    if served.log is not None:
        served.log.add(request, answered, clock)
    if served.drift is not None:
        served.drift.count_if_sampled(answered)
    return answer_columns(answered, request.length, served)


def _parse_for_release(
    request: Mapping[str, Any], candidates: Mapping[str, Any] | None, by: ServedRelease
) -> ParsedRequest:
    """Parse a request for a release."""
    return by.parser.parse_values(request, candidates)


def not_ready_reason(context: ExtensionContext, models: ServedModels) -> str:
    """Return the reason why this worker should get no requests to models; "" if it should."""
    if context.runtime.is_draining:
        return "The reader is draining: it got a signal to stop."
    if not context.catalog.warm:
        return "The reader is still reading the published versions into memory."
    if waiting := models.known - models.served.keys() - models.failures.keys():
        return f"The reader is still loading the release of {', '.join(sorted(waiting))}."
    return ""
