"""The whole way of a request to a model, over every protocol: admit, look up, transform, model, fall back, finish.

`RequestHandler` takes a call from admission to its end, `AnswerEngine` one request from look-up to fallback. A protocol
only parses a body into requests and renders their answers (`ModelProtocol`). `may_begin` decides by the deadline before
each step (`forecache.realtime.deadline`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from functools import partial
from math import inf
from time import monotonic, perf_counter_ns, time

from forecache.base.plugins import load_hook
from forecache.kit.http import problems
from forecache.kit.http.call import ClientGone, HttpCall
from forecache.kit.http.load_shedding import busy_problem
from forecache.kit.http.problems import Problem
from forecache.realtime.answer.fallbacks import empty_answer, fallback_answer, features_of, scored_answer
from forecache.realtime.answer.served_release import Exchange, ModelProtocol, ServedRelease
from forecache.realtime.deadline import (
    OVERLOAD,
    SLICE_NS,
    CostEstimate,
    RequestClock,
    RequestQueue,
    choose_fallback,
    clock_of,
    may_begin,
    time_for_model,
    time_to_finish,
)
from forecache.realtime.request.request_answer import (
    LookupResult,
    NoScores,
    ParsedRequest,
    RequestAnswer,
    StageTimes,
    TooLate,
)
from forecache.serve.reader.http.extension import ExtensionContext
from forecache.serve.reader.http.messages import Reply
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.worker_metrics import ROUTE

logger = logging.getLogger("forecache.realtime")
_ROUTE = ROUTE["realtime"]
_STARTED_AT_ONCE = 16
"""Requests of one body for other processes that are started before other work on the loop gets its turn."""


class RequestHandler:
    """Takes calls to models from admission to the reply, on the event loop's thread of one worker."""

    def __init__(self, context: ExtensionContext, engine: "AnswerEngine", queue: RequestQueue) -> None:
        self.context, self._engine, self._queue = context, engine, queue

    def handle(self, served: ServedRelease, protocol: ModelProtocol, call: HttpCall) -> Awaitable[None] | None:
        """Admit a call and answer it; return what has to be awaited, if anything."""
        context = self.context
        try:
            if context.access is not None:
                context.access.check(call.headers, served.name)
            protocol.check_headers(call.headers)
            exchange = Exchange(call, protocol, served, clock_of(call, served.loaded.release.deadline_ms))
            body = call.whole_body(context.settings.reader_max_body_bytes, context.bodies)
        except Problem as problem:
            self._refuse(served, protocol, call, problem)
            return None
        return self._read_body(exchange) if body is None else self._admit(exchange, body)

    async def _read_body(self, exchange: Exchange) -> None:
        call, settings = exchange.call, self.context.settings
        limit_bytes, timeout_s = settings.reader_max_body_bytes, settings.reader_request_timeout_s
        try:
            body = await call.read_body(limit_bytes, self.context.bodies, timeout_s)
        except ClientGone:
            self.context.metrics.observe(_ROUTE, problems.CLIENT_GONE, perf_counter_ns() - call.arrived)
            return
        except Problem as problem:
            self._fail(exchange, problem)
            return
        if (later := self._admit(exchange, body)) is not None:
            await later

    def _admit(self, exchange: Exchange, body: bytes) -> Awaitable[None] | None:
        try:
            exchange.requests = exchange.protocol.parse(exchange, body)
            if len(exchange.requests) != 1 or exchange.served.split is not None:
                self._parse_all(exchange)
        except Exception as error:  # noqa: BLE001  # each becomes a reply that names its cause
            self._fail(exchange, error)
            return None
        return self._begin(exchange)

    def _parse_all(self, exchange: Exchange) -> None:
        """Parse all requests before the first is answered, each for the release that answers it."""
        began, served, split = perf_counter_ns(), exchange.served, exchange.served.split
        exchange.parsed = [
            (served, each.parse_for(served)) if split is None else split.assign_release(each.parse_for)
            for each in exchange.requests
        ]
        for by, request in exchange.parsed:
            if by.log is not None:
                by.log.assign_id(request)
        exchange.parse_ns = (perf_counter_ns() - began) // (len(exchange.requests) or 1)

    def _begin(self, exchange: Exchange) -> Awaitable[None] | None:
        """Begin to answer: by fallbacks if the model has no time, elsewhere, at once, or when the queue allows it."""
        now, place, clock = perf_counter_ns(), len(exchange.answers), exchange.clock
        by = exchange.parsed[place][0] if place < len(exchange.parsed) else exchange.served
        if exchange.why:
            self._answer_slice(exchange, exchange.why)
        elif not may_begin(by.model_cost, now, clock.until):
            if not place and self._queue.is_overload(now, clock):
                self._answer_beside_queue(exchange, now, TooLate.reason)
            else:
                self._answer_slice(exchange, TooLate.reason)
        elif not place and exchange.is_elsewhere():
            return self._answer_elsewhere(exchange)
        elif self._queue.can_run_now(clock, now):
            self._answer_slice(exchange, "")
        elif not place and (exchange.call.is_surplus or self._queue.is_full(clock.until - clock.arrived)):
            self._answer_beside_queue(exchange, now, OVERLOAD)
        else:
            self._queue.enqueue(clock, partial(self._answer_in_turn, exchange))
        return None

    def _answer_in_turn(self, exchange: Exchange, why: str) -> None:
        if why and not self._queue.may_fall_back(perf_counter_ns()):
            self._fail(exchange, busy_problem())
        else:
            self._answer_slice(exchange, why)

    def _answer_beside_queue(self, exchange: Exchange, now: int, why: str) -> None:
        """Answer a call under overload: by a fallback, unless it comes too late or fallbacks take too much time."""
        self._queue.shedder.activate(now)
        if now < exchange.clock.until and self._queue.may_fall_back(now):
            self._answer_slice(exchange, why)
            self._queue.spend_beside(perf_counter_ns() - exchange.call.arrived)
        else:
            self._fail(exchange, busy_problem())

    def _answer_slice(self, exchange: Exchange, why: str) -> None:
        """Answer requests on this thread for a slice of time, after which others have their turns."""
        began, is_by_model, reply = perf_counter_ns(), True, None
        exchange.why = why
        count, answers = len(exchange.requests), exchange.answers
        try:
            while len(answers) < count:
                answered = self._answer_next(exchange)
                is_by_model = is_by_model and answered.is_by_model
                if len(answers) < count and perf_counter_ns() - began >= SLICE_NS:
                    break
            else:
                reply = exchange.render_reply()
        except Exception as error:  # noqa: BLE001  # each becomes a reply that names its cause
            self._fail(exchange, error)
            return
        spent_ns = perf_counter_ns() - began + exchange.parse_ns
        if is_by_model and count:
            self._queue.model_cost.add_sample(spent_ns)
        if reply is None:
            asyncio.get_running_loop().call_soon(self._begin, exchange)
        else:
            self._complete(exchange, reply, spent_ns)

    def _answer_next(self, exchange: Exchange) -> RequestAnswer:
        """Answer the next request on this thread, so that there is time for the last fallback of each behind it."""
        began, clock, why, place = perf_counter_ns(), exchange.clock, exchange.why, len(exchange.answers)
        behind, is_hasty = len(exchange.requests) - place - 1, False
        waiting, times = self._queue.waiting + behind, exchange.times(began)
        if exchange.parsed:
            by, request = exchange.parsed[place]
        else:
            by, alone, members = exchange.served, exchange.requests[0], None
            if why and alone.body is not None and has_time_for_last_only(by, clock, waiting):
                is_hasty = True
                request, members = by.parser.parse_candidates_only(alone.body)
            else:
                request = alone.parse_for(by)
            times.parse += perf_counter_ns() - began
            if by.log is not None:
                by.log.assign_id(request, members)
            exchange.parsed = ((by, request),)
        if why:
            answered = self._engine.answer_by_fallback(
                by, request, clock, times, why=why, waiting=waiting, only_last=is_hasty
            )
        else:
            reserve_ns = behind * by.low_cost.estimate
            answered = self._engine.answer_now(by, request, clock, times, waiting=waiting, reserve_ns=reserve_ns)
        exchange.note_end(answered)
        exchange.answers.append(answered)
        if len(exchange.requests) > 1:
            self._finish(exchange, by, request, answered, perf_counter_ns() - began + exchange.parse_ns)
        return answered

    async def _answer_elsewhere(self, exchange: Exchange) -> None:
        """Answer requests some of which need another process, or look-ups on another machine."""
        try:
            if not exchange.parsed:
                self._parse_all(exchange)
            if len(exchange.parsed) == 1:
                exchange.answers = [await self._answer_waiting(exchange, 0)]
            else:
                tasks: list[asyncio.Task[RequestAnswer]] = []
                for place in range(len(exchange.parsed)):
                    tasks.append(asyncio.create_task(self._answer_waiting(exchange, place)))
                    if len(tasks) % _STARTED_AT_ONCE == 0:
                        await asyncio.sleep(0)
                exchange.answers = await asyncio.gather(*tasks)
            began = perf_counter_ns()
            reply = exchange.render_reply()
        except Exception as error:  # noqa: BLE001  # each becomes a reply that names its cause
            self._fail(exchange, error)
            return
        spent_ns = perf_counter_ns() - began
        if len(exchange.parsed) == 1:
            spent_ns += exchange.parsed[0][0].loop_time_ns(exchange.answers[0])
        self._complete(exchange, reply, spent_ns)

    async def _answer_waiting(self, exchange: Exchange, place: int) -> RequestAnswer:
        by, request = exchange.parsed[place]
        times = exchange.times(perf_counter_ns())
        answered = await self._engine.answer(by, request, exchange.clock, times)
        began = perf_counter_ns()
        exchange.note_end(answered)
        if len(exchange.requests) > 1:
            spent_ns = by.loop_time_ns(answered) + perf_counter_ns() - began
            self._finish(exchange, by, request, answered, spent_ns)
        return answered

    def _complete(self, exchange: Exchange, reply: Reply, spent_ns: int) -> None:
        """Send the reply; finish an answer that comes alone after that, so that the client does not wait for it."""
        if len(exchange.requests) == 1:
            by, request = exchange.parsed[0]
            self._finish(exchange, by, request, exchange.answers[0], spent_ns, reply)
        else:
            self.send(exchange.call, reply)
        split = exchange.served.split
        if split is not None:
            for (_, request), each in zip(exchange.parsed, exchange.requests, strict=True):
                split.offer_to_shadow(request, each.parse_for, exchange.clock)

    def _finish(
        self, exchange: Exchange, by: ServedRelease, request: ParsedRequest, answered: RequestAnswer, spent_ns: int,
        reply: Reply | None = None,
    ) -> None:  # fmt: skip
        """Count an answer, send its reply, log the answer, learn from its cost, and watch the features' drift."""
        by.cells.count(answered, elapsed=answered.elapsed, late=answered.late)
        if reply is not None:
            if by.log is not None:
                by.log.mark_sending()
            self.send(exchange.call, reply)
        if by.log is not None:
            by.log.add(request, answered, exchange.clock)
        by.learn(answered, spent_ns)
        if by.drift is not None:
            by.drift.count_if_sampled(answered)

    def _fail(self, exchange: Exchange, error: Exception) -> None:
        self._refuse(exchange.served, exchange.protocol, exchange.call, error)

    def _refuse(self, served: ServedRelease, protocol: ModelProtocol, call: HttpCall, error: Exception) -> None:
        """Answer a call by an error; any but a `Problem` is a defect, which the log explains."""
        if not isinstance(error, Problem):
            logger.error("A request to %s failed.", served.name, exc_info=error)
            self.context.catalog.check_for_damage()
            error = Problem(problems.INTERNAL, "This is a defect; see the reader's log for the cause.")
        if error.kind is problems.OVERLOADED:
            self.context.metrics.count_refused_body()
        self.send(call, protocol.render_error(error))

    def send(self, call: HttpCall, reply: Reply) -> None:
        """Send a reply and count it."""
        call.respond(reply.status, reply.headers, reply.body)
        self.context.metrics.observe(_ROUTE, reply.status, perf_counter_ns() - call.arrived)


class AnswerEngine:
    """Answers parsed requests: by the model if there is time, else by the best fallback that there is time for."""

    def __init__(self, versions: Mapping[str, VersionAnswers]) -> None:
        self._versions = versions

    def answer_now(
        self,
        served: ServedRelease,
        request: ParsedRequest,
        clock: RequestClock,
        times: StageTimes,
        *,
        waiting: int = 0,
        reserve_ns: int = 0,
    ) -> RequestAnswer:
        """Answer a request to a model that runs on this thread. `reserve_ns`: time that they need."""
        if not request.length:
            return empty_answer(request, times)
        now, began = time(), perf_counter_ns()
        found: LookupResult | None = None
        try:
            if not may_begin(served.model_cost, began, clock.until, reserve=reserve_ns):
                raise TooLate
            found = served.lookups.read(request, now)
            times.lookup = perf_counter_ns() - began
            path = served.path
            scores = path.score_now(request, found, time_for_model(served.low_cost, clock.until - perf_counter_ns()))
            times.transform, times.model = path.times.transform, path.times.model
        except NoScores as error:
            return self.answer_by_fallback(
                served, request, clock, times, why=error.reason, waiting=waiting, found=found
            )
        return scored_answer(request, scores, found, times, served.fallbacks, self._versions, now)

    async def answer(
        self, served: ServedRelease, request: ParsedRequest, clock: RequestClock, times: StageTimes
    ) -> RequestAnswer:
        """Answer a request to any model, within its deadline. Raises `Problem`: the key of a look-up is not valid."""
        is_remote, path = served.lookups.is_remote(), served.path
        if path.in_loop and not is_remote:
            return self.answer_now(served, request, clock, times)
        if not request.length:
            return empty_answer(request, times)
        began = perf_counter_ns()
        found: LookupResult | None = None
        end = began + time_for_model(served.low_cost, clock.until - began) - time_to_finish(clock.deadline_ms)
        until = monotonic() + (end - began) / 1e9
        try:
            if not may_begin(_cost_of_model(served), began, end):
                raise TooLate
            if is_remote:
                found = await load_hook("redis", "read_remote")(
                    served.lookups, request, until, served.cells.path_counters
                )
            else:
                found = served.lookups.read(request, time())
            times.lookup, began = perf_counter_ns() - began, perf_counter_ns()
            if not may_begin(_cost_of_model(served), began, end):
                raise TooLate
            if path.in_loop:
                scores = path.score_now(request, found, end - began)
            else:
                scores = await path.score(request, found, until)
            times.model = perf_counter_ns() - began
        except NoScores as error:
            times.model = perf_counter_ns() - began
            return self.answer_by_fallback(served, request, clock, times, why=error.reason, found=found)
        return scored_answer(request, scores, found, times, served.fallbacks, self._versions, time())

    def answer_by_fallback(
        self,
        served: ServedRelease,
        request: ParsedRequest,
        clock: RequestClock,
        times: StageTimes,
        *,
        why: str,
        waiting: int = 0,
        found: LookupResult | None = None,
        only_last: bool = False,
    ) -> RequestAnswer:
        """Answer by the best fallback that there is time for.

        Args:
            found: Of the look-ups, if they were made for the model.
            only_last: True if only the candidates' names of the request have been parsed, for the last fallback.
        """
        if not request.length:
            return empty_answer(request, times, why)
        if only_last:
            last = served.fallbacks[-1]
            answered = RequestAnswer(request.items, last.scores(request, self._versions, 0.0, {}), last.name)
            answered.fallback_reason, answered.request_id, answered.times = why, request.request_id, times
            return answered
        began = perf_counter_ns()
        first = choose_fallback(served.costs, served.model_cost, began, clock.until, waiting)
        answered = fallback_answer(request, served.fallbacks[first:], self._versions, time())
        times.fallbacks = perf_counter_ns() - began
        served.costs[first].add_sample(times.fallbacks)
        answered.fallback_reason, answered.times = why, times
        if found is not None:
            answered.features, answered.live = features_of(found, answered), found.merged
        return answered


def has_time_for_last_only(served: ServedRelease, clock: RequestClock, waiting: int) -> bool:
    """Return True if there is time for the last fallback only, and it needs nothing but the candidates' names."""
    first = choose_fallback(served.costs, served.model_cost, perf_counter_ns(), clock.until, waiting)
    return first == len(served.fallbacks) - 1 and not served.fallbacks[-1].needs_request


def _cost_of_model(served: ServedRelease) -> CostEstimate | float:
    """Return what may_begin compares: nanoseconds; 0 if the process cannot be reached, which its path reports."""
    if served.path.in_loop:
        return served.model_cost
    expected_s = served.path.expected_s()
    return 0.0 if expected_s == inf else expected_s * 1e9
