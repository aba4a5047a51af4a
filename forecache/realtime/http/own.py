"""The reader's own JSON protocol: `POST /v1/<name>`."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter_ns

from forecache.reader.connections.call import Call, ClientGone
from forecache.reader.http import problems
from forecache.reader.http.app import problem_reply
from forecache.reader.http.body_types import check_json_body
from forecache.reader.http.extension import Context
from forecache.reader.http.problems import Problem
from forecache.reader.http.replies import NO_STORE, Reply
from forecache.reader.processes.metrics import ROUTE
from forecache.realtime.answer.answered import Answered, Times
from forecache.realtime.answer.engine import Engine
from forecache.realtime.answer.model_path import TooLate
from forecache.realtime.deadline.backlog import Backlog
from forecache.realtime.deadline.clock import Clock, clock_of
from forecache.realtime.http.tracing import TRACE, traced
from forecache.realtime.request.parsed import ParsedRequest
from forecache.realtime.served import Served

logger = logging.getLogger("forecache.realtime")
_ROUTE = ROUTE["realtime"]
_Outcome = tuple[Reply, ParsedRequest | None, Answered | None]
"""A reply with its request and answer, both None for an error."""


class OwnProtocol:
    """Handles requests in the reader's own JSON."""

    def __init__(self, context: Context, engine: Engine, backlog: Backlog) -> None:
        self._context, self._engine, self._backlog = context, engine, backlog
        self._limit_bytes = context.settings.reader_max_body_bytes
        self._timeout_s = context.settings.reader_request_timeout_s

    def answer(self, served: Served, call: Call) -> Awaitable[None] | None:
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
        return self._read_on(served, call, clock) if body is None else self._with_body(served, call, clock, body)

    async def _read_on(self, served: Served, call: Call, clock: Clock) -> None:
        """Answer once the whole body has arrived."""
        try:
            body = await call.read_body(self._limit_bytes, self._context.bodies, self._timeout_s)
        except ClientGone:
            self._context.metrics.observe(_ROUTE, problems.CLIENT_GONE, perf_counter_ns() - call.arrived)
            return
        except Problem as problem:
            self.send(call, problem_reply(problem))
            return
        later = self._with_body(served, call, clock, body)
        if later is not None:
            await later

    def _with_body(self, served: Served, call: Call, clock: Clock, body: bytes) -> Awaitable[None] | None:
        now = perf_counter_ns()
        request, split = None, served.split
        if split is not None:
            try:
                served, request = split.assigned(lambda each: each.parser.parse(body))
            except Exception as error:  # noqa: BLE001  # each becomes a reply that names its cause
                self.send(call, self._failed(error, served))
                return None

        def finish(outcome: _Outcome) -> None:
            self._finish(served, call, clock, *outcome)
            if split is not None:
                split.after(outcome[1], lambda each: each.parser.parse(body), clock)

        def run(why: str) -> None:
            finish(self._now(served, body, call.headers, clock, why, request))

        if not served.model_cost.fits(clock.until - now):
            run(TooLate.reason)
        elif not served.path.in_loop or served.lookups.remote():
            return self._elsewhere(served, body, call.headers, clock, request, finish)
        elif self._backlog.is_calm(clock, now):
            run("")
        else:
            self._backlog.join(clock, run)
        return None

    async def _elsewhere(
        self, served: Served, body: bytes, headers: Mapping[str, str], clock: Clock, request: ParsedRequest | None,
        finish: Callable[[_Outcome], None],
    ) -> None:  # fmt: skip
        finish(await self._later(served, body, headers, clock, request))

    def _now(
        self,
        served: Served,
        body: bytes,
        headers: Mapping[str, str],
        clock: Clock,
        why: str,
        request: ParsedRequest | None,
    ) -> _Outcome:
        """Reply by a model on this thread, or by a fallback of any model.

        Args:
            why: As of `AnswerEngine.answer_now`.
            request: Of the body, if it was parsed already.
        """
        began, log = perf_counter_ns(), served.log
        times = Times(wait=began - clock.arrived)
        try:
            if request is None and why and self._engine.only_last(served, clock, self._backlog.waiting):
                request, members = served.parser.hasty(body)
                times.parse = perf_counter_ns() - began
                if log is not None:
                    log.identify(request, members)
                answered = self._engine.last(served, request, times, why=why)
            else:
                request = request or served.parser.parse(body)
                times.parse = perf_counter_ns() - began
                if log is not None:
                    log.identify(request)
                answered = self._engine.answer_now(
                    served, request, clock, times, why=why, waiting=self._backlog.waiting
                )
        except Exception as error:  # noqa: BLE001  # each becomes a reply that names its cause
            return self._failed(error, served), None, None
        reply = self._rendered(served, answered, headers, clock)
        spent_ns = perf_counter_ns() - began
        if served.learn(answered, spent_ns):
            self._backlog.model_cost.took(spent_ns)
        return reply, request, answered

    async def _later(
        self, served: Served, body: bytes, headers: Mapping[str, str], clock: Clock, request: ParsedRequest | None
    ) -> _Outcome:
        """Reply by a model in another process, or with look-ups on another machine."""
        began = perf_counter_ns()
        times = Times(wait=began - clock.arrived)
        try:
            request = request or served.parser.parse(body)
            times.parse = perf_counter_ns() - began
            if served.log is not None:
                served.log.identify(request)
            answered = await self._engine.answer(served, request, clock, times)
            began = perf_counter_ns()
        except Exception as error:  # noqa: BLE001  # each becomes a reply that names its cause
            return self._failed(error, served), None, None
        reply = self._rendered(served, answered, headers, clock)
        if not answered.why:
            served.learn(answered, served.on_loop_ns(times) + perf_counter_ns() - began)
        return reply, request, answered

    def _rendered(self, served: Served, answered: Answered, headers: Mapping[str, str], clock: Clock) -> Reply:
        now = perf_counter_ns()
        elapsed = answered.elapsed = now - clock.arrived
        late = answered.late = clock.is_late(now)
        body = served.renderer.body(answered, deadline_ms=clock.deadline_ms, elapsed=elapsed, late=late)
        served.cells.count(answered, elapsed=elapsed, late=late)
        trace = headers.get(TRACE)
        return Reply(200, NO_STORE if trace is None else [*NO_STORE, *traced(trace)], body)

    def _failed(self, error: Exception, served: Served) -> Reply:
        if isinstance(error, Problem):
            return problem_reply(error)
        logger.error("A request to %s failed.", served.name, exc_info=error)
        self._context.catalog.suspect()
        return problem_reply(Problem(problems.INTERNAL, "This is a defect; see the reader's log for the cause."))

    def _finish(
        self, served: Served, call: Call, clock: Clock,
        reply: Reply, request: ParsedRequest | None, answered: Answered | None,
    ) -> None:  # fmt: skip
        """Send a reply, then log and count it, so that the client does not wait for that."""
        log = served.log
        if log is None or request is None or answered is None:
            self.send(call, reply)
        else:
            log.about_to_send()
            self.send(call, reply)
            log.add(request, answered, clock)
        if served.drift is not None and answered is not None:
            served.drift.see(answered)

    def send(self, call: Call, reply: Reply) -> None:
        """Send a reply and count it."""
        call.respond(reply.status, reply.headers, reply.body)
        self._context.metrics.observe(_ROUTE, reply.status, perf_counter_ns() - call.arrived)
