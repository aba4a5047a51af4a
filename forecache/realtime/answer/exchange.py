"""A call to a model, and what a protocol does for it: parse the body into requests, and render their answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, Protocol

from forecache.kit.http.call import HttpCall
from forecache.kit.http.problems import Problem
from forecache.realtime.answer.render import TRACE, trace_headers
from forecache.realtime.answer.request_answer import RequestAnswer, StageTimes
from forecache.realtime.deadline.clock import RequestClock
from forecache.realtime.request.parsed_request import ParsedRequest
from forecache.realtime.served_release import ServedRelease
from forecache.serve.reader.http.messages import Reply


@dataclass(slots=True)
class ModelRequest:
    """One request of a body, which a release has not parsed yet.

    Attributes:
        body: The request in the reader's own JSON; None if the protocol has parsed its values.
        values: Value by field of the request.
        candidates: Values [n] by field of the candidates, lists or arrays; None if the model ranks none.
        id_suffix: Tells the request's id from those of others in the same body.
    """

    body: bytes | None = None
    values: Mapping[str, Any] | None = None
    candidates: Mapping[str, Any] | None = None
    id_suffix: str = ""

    def parse_for(self, served: ServedRelease) -> ParsedRequest:
        """Parse the request for a release.

        Raises:
            Problem: The release does not accept it.
        """
        if self.body is not None:
            return served.parser.parse(self.body)
        request = served.parser.parse_values(self.values or {}, self.candidates)
        if request.request_id:
            request.request_id += self.id_suffix
        return request


class ModelProtocol(Protocol):
    """The differences between protocols."""

    def check_headers(self, headers: Mapping[str, str]) -> None:
        """Raise a `Problem` if the header fields describe a body that the protocol does not take."""

    def parse(self, exchange: "Exchange", body: bytes) -> Sequence[ModelRequest]:
        """Return the requests of a body; may shorten the exchange's deadline.

        Raises:
            Problem: The body is wrong.
        """

    def render(self, exchange: "Exchange") -> Reply:
        """Encode the answers."""

    def render_error(self, problem: Problem) -> Reply:
        """Encode a problem."""


@dataclass(slots=True)
class Exchange:
    """One call to a model, and how far its answer is.

    Attributes:
        served: The release that the call names; while one is rolled out, others may answer.
        parsed: The release that answers each request, and the request parsed for it. Requests that come alone are
            parsed in their turn.
        parse_ns: Nanoseconds of parsing that were spent before, for each request.
        why: Reason why the model must not be called any more; "" if it may.
    """

    call: HttpCall
    protocol: ModelProtocol
    served: ServedRelease
    clock: RequestClock
    requests: Sequence[ModelRequest] = ()
    parsed: Sequence[tuple[ServedRelease, ParsedRequest]] = ()
    answers: list[RequestAnswer] = field(default_factory=list)
    parse_ns: int = 0
    why: str = ""

    def is_elsewhere(self) -> bool:
        """Return True if a model is in another process, or a view on another machine."""
        for by in (self.served,) if self.served.split is None else [by for by, _ in self.parsed]:
            if not by.path.in_loop or by.lookups.is_remote():
                return True
        return False

    def times(self, now: int) -> StageTimes:
        """Begin the times of an answer with the wait and the parsing so far."""
        return StageTimes(now - self.clock.arrived - self.parse_ns, self.parse_ns)

    def note_end(self, answered: RequestAnswer) -> None:
        """Set the time of an answer, and whether it is late."""
        now = perf_counter_ns()
        answered.elapsed, answered.late = now - self.clock.arrived, self.clock.is_late(now)

    def render_reply(self) -> Reply:
        """Render the answers; the reply continues the trace of the call, if that has one."""
        reply, trace = self.protocol.render(self), self.call.headers.get(TRACE)
        return reply if trace is None else reply._replace(headers=[*reply.headers, *trace_headers(trace)])
