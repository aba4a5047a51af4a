"""A call to a model, and what a protocol does for it: parse the body into requests, and render their answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, Protocol

from forecache.kit.http.call import HttpCall
from forecache.kit.http.problems import Problem
from forecache.realtime.answer.render import TRACE, trace_headers
from forecache.realtime.answer.served_release import ServedRelease
from forecache.realtime.deadline import RequestClock
from forecache.realtime.request.request_answer import ParsedRequest, RequestAnswer, StageTimes
from forecache.serve.reader.http.messages import Reply


@dataclass(slots=True)
class ModelRequest:
    """One request of a body, which a release has not parsed yet."""

    body: bytes | None = None  # the request in the reader's own JSON; None if the protocol has parsed its values
    values: Mapping[str, Any] | None = None  # value by field of the request
    candidates: Mapping[str, Any] | None = None  # values [n] by field; None: the model ranks none
    id_suffix: str = ""  # tells the request's id from those of others in the same body

    def parse_for(self, served: ServedRelease) -> ParsedRequest:
        """Parse the request for a release. Raises `Problem`: the release does not accept it."""
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
        """Return the requests of a body; may shorten the exchange's deadline. Raises `Problem`: the body is wrong."""

    def render(self, exchange: "Exchange") -> Reply:
        """Encode the answers."""

    def render_error(self, problem: Problem) -> Reply:
        """Encode a problem."""


@dataclass(slots=True)
class Exchange:
    """One call to a model, and how far its answer is."""

    call: HttpCall
    protocol: ModelProtocol
    served: ServedRelease  # the release that the call names; while one is rolled out, others may answer
    clock: RequestClock
    requests: Sequence[ModelRequest] = ()
    parsed: Sequence[tuple[ServedRelease, ParsedRequest]] = ()  # one that comes alone: in its turn
    answers: list[RequestAnswer] = field(default_factory=list)
    parse_ns: int = 0  # nanoseconds of parsing that were spent before, for each request
    why: str = ""  # reason why the model must not be called any more; "" if it may

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
