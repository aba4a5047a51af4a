"""The reader's own JSON protocol: `POST /v1/<name>`."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter_ns

from forecache.kit.http import problems
from forecache.kit.http.connections.call import ClientGone, HttpCall
from forecache.kit.http.problems import Problem
from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.model_path import TooLate
from forecache.realtime.answer.request_answer import RequestAnswer, StageTimes
from forecache.realtime.deadline.clock import RequestClock, clock_of
from forecache.realtime.deadline.request_queue import RequestQueue
from forecache.realtime.http.provenance import TRACE, trace_headers
from forecache.realtime.request.parsed_request import ParsedRequest
from forecache.realtime.served_release import ServedRelease
from forecache.serve.reader.http.app import problem_reply
from forecache.serve.reader.http.extension import ExtensionContext
from forecache.serve.reader.http.parsing import check_json_body
from forecache.serve.reader.http.replies import NO_STORE, Reply
from forecache.serve.reader.processes.worker_metrics import ROUTE

logger = logging.getLogger("forecache.realtime")
_ROUTE = ROUTE["realtime"]
_Outcome = tuple[Reply, ParsedRequest | None, RequestAnswer | None]
"""A reply with its request and answer, both None for an error."""


class NativeProtocol:
    """Handles requests in the reader's own JSON."""

    def __init__(self, context: ExtensionContext, engine: AnswerEngine, backlog: RequestQueue) -> None:
        self._context, self._engine, self._backlog = context, engine, backlog
        self._limit_bytes = context.settings.reader_max_body_bytes
        self._timeout_s = context.settings.reader_request_timeout_s

    def answer(self, served: ServedRelease, call: HttpCall) -> Awaitable[None] | None:
        """Answer a request to a model; return what has to be awaited, if anything."""
        context, headers = self._context, call.headers
        try:
            if context.access is not None:
                context.access.check(headers, served.name)
            check_json_body(headers)
            clock = clock_of(call, served.loaded.release.deadline_ms)
            body = call.whole_body(self._limit_bytes, context.bodies)
        except Problem as problem:
            self.send(call, problem_reply(problem))
            return None
        return (
            self._answer_after_body(served, call, clock)
            if body is None
            else self._answer_body(served, call, clock, body)
        )

    async def _answer_after_body(self, served: ServedRelease, call: HttpCall, clock: RequestClock) -> None:
        """Answer once the whole body has arrived."""
        try:
            body = await call.read_body(self._limit_bytes, self._context.bodies, self._timeout_s)
        except ClientGone:
            self._context.metrics.observe(_ROUTE, problems.CLIENT_GONE, perf_counter_ns() - call.arrived)
            return
        except Problem as problem:
            self.send(call, problem_reply(problem))
            return
        later = self._answer_body(served, call, clock, body)
        if later is not None:
            await later

    def _answer_body(
        self, served: ServedRelease, call: HttpCall, clock: RequestClock, body: bytes
    ) -> Awaitable[None] | None:
        now = perf_counter_ns()
        request, split = None, served.split
        if split is not None:
            try:
                served, request = split.assign_release(lambda each: each.parser.parse(body))
            except Exception as error:  # noqa: BLE001  # each becomes a reply that names its cause
                self.send(call, self._error_reply(error, served))
                return None

        def finish(outcome: _Outcome) -> None:
            self._finish(served, call, clock, *outcome)
            if split is not None:
                split.offer_to_shadow(outcome[1], lambda each: each.parser.parse(body), clock)

        def run(why: str) -> None:
            finish(self._answer_now(served, body, call.headers, clock, why, request))

        if not served.model_cost.fits(clock.until - now):
            run(TooLate.reason)
        elif not served.path.in_loop or served.lookups.is_remote():
            return self._answer_and_finish(served, body, call.headers, clock, request, finish)
        elif self._backlog.can_run_now(clock, now):
            run("")
        else:
            self._backlog.enqueue(clock, run)
        return None

    async def _answer_and_finish(
        self,
        served: ServedRelease,
        body: bytes,
        headers: Mapping[str, str],
        clock: RequestClock,
        request: ParsedRequest | None,
        finish: Callable[[_Outcome], None],
    ) -> None:
        finish(await self._answer_later(served, body, headers, clock, request))

    def _answer_now(
        self,
        served: ServedRelease,
        body: bytes,
        headers: Mapping[str, str],
        clock: RequestClock,
        why: str,
        request: ParsedRequest | None,
    ) -> _Outcome:
        """Reply by a model on this thread, or by a fallback of any model.

        Args:
            why: As of `AnswerEngine.answer_now`.
            request: Of the body, if it was parsed already.
        """
        began, log = perf_counter_ns(), served.log
        times = StageTimes(wait=began - clock.arrived)
        try:
            if request is None and why and self._engine.has_time_for_last_only(served, clock, self._backlog.waiting):
                request, members = served.parser.parse_candidates_only(body)
                times.parse = perf_counter_ns() - began
                if log is not None:
                    log.assign_id(request, members)
                answered = self._engine.answer_by_last_fallback(served, request, times, why=why)
            else:
                request = request or served.parser.parse(body)
                times.parse = perf_counter_ns() - began
                if log is not None:
                    log.assign_id(request)
                answered = self._engine.answer_now(
                    served, request, clock, times, why=why, waiting=self._backlog.waiting
                )
        except Exception as error:  # noqa: BLE001  # each becomes a reply that names its cause
            return self._error_reply(error, served), None, None
        reply = self._render_reply(served, answered, headers, clock)
        spent_ns = perf_counter_ns() - began
        if served.learn(answered, spent_ns):
            self._backlog.model_cost.add_sample(spent_ns)
        return reply, request, answered

    async def _answer_later(
        self,
        served: ServedRelease,
        body: bytes,
        headers: Mapping[str, str],
        clock: RequestClock,
        request: ParsedRequest | None,
    ) -> _Outcome:
        """Reply by a model in another process, or with look-ups on another machine."""
        began = perf_counter_ns()
        times = StageTimes(wait=began - clock.arrived)
        try:
            request = request or served.parser.parse(body)
            times.parse = perf_counter_ns() - began
            if served.log is not None:
                served.log.assign_id(request)
            answered = await self._engine.answer(served, request, clock, times)
            began = perf_counter_ns()
        except Exception as error:  # noqa: BLE001  # each becomes a reply that names its cause
            return self._error_reply(error, served), None, None
        reply = self._render_reply(served, answered, headers, clock)
        if not answered.why:
            served.learn(answered, served.loop_time_ns(times) + perf_counter_ns() - began)
        return reply, request, answered

    def _render_reply(
        self, served: ServedRelease, answered: RequestAnswer, headers: Mapping[str, str], clock: RequestClock
    ) -> Reply:
        now = perf_counter_ns()
        elapsed = answered.elapsed = now - clock.arrived
        late = answered.late = clock.is_late(now)
        body = served.renderer.body(answered, deadline_ms=clock.deadline_ms, elapsed=elapsed, late=late)
        served.cells.count(answered, elapsed=elapsed, late=late)
        trace = headers.get(TRACE)
        return Reply(200, NO_STORE if trace is None else [*NO_STORE, *trace_headers(trace)], body)

    def _error_reply(self, error: Exception, served: ServedRelease) -> Reply:
        if isinstance(error, Problem):
            return problem_reply(error)
        logger.error("A request to %s failed.", served.name, exc_info=error)
        self._context.catalog.check_for_damage()
        return problem_reply(Problem(problems.INTERNAL, "This is a defect; see the reader's log for the cause."))

    def _finish(
        self, served: ServedRelease, call: HttpCall, clock: RequestClock,
        reply: Reply, request: ParsedRequest | None, answered: RequestAnswer | None,
    ) -> None:  # fmt: skip
        """Send a reply, then log and count it, so that the client does not wait for that."""
        log = served.log
        if log is None or request is None or answered is None:
            self.send(call, reply)
        else:
            log.mark_sending()
            self.send(call, reply)
            log.add(request, answered, clock)
        if served.drift is not None and answered is not None:
            served.drift.count_if_sampled(answered)

    def send(self, call: HttpCall, reply: Reply) -> None:
        """Send a reply and count it."""
        call.respond(reply.status, reply.headers, reply.body)
        self._context.metrics.observe(_ROUTE, reply.status, perf_counter_ns() - call.arrived)
