"""A served release: loaded, warmed, with the path to its model, its look-ups, fallbacks and log."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np

from forecache.base.plugins import find_hooks
from forecache.kit.http.call import HttpCall
from forecache.kit.http.problems import Problem
from forecache.realtime.answer.fallbacks import Fallback, open_fallbacks
from forecache.realtime.answer.render import TRACE, Renderer, trace_headers
from forecache.realtime.deadline import CostEstimate, RequestClock
from forecache.realtime.log.answer_log import AnswerLog
from forecache.realtime.lookups import ViewLookups
from forecache.realtime.metrics import ModelCells, PathCounters
from forecache.realtime.release.load import OpenRelease
from forecache.realtime.request.request_answer import LookupResult, ParsedRequest, RequestAnswer, StageTimes
from forecache.realtime.request.request_parser import RequestParser
from forecache.serve.reader.http.messages import Reply
from forecache.serve.reader.versions.answers import VersionAnswers


class ModelPath(Protocol):
    """Transform and model of one release."""

    in_loop: bool  # if True, `score_now` is called on the event loop; else `score` is awaited
    times: StageTimes  # of the last call of `score_now`: its stages "transform" and "model"

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        """Score on this thread: float64 or float32 [n].

        Raises:
            NoScores: There are no scores; the subclass says why.
        """

    async def score(self, request: ParsedRequest, found: LookupResult, until: float) -> np.ndarray:
        """Score in another process: float64 or float32 [n].

        Args:
            until: Time of `time.monotonic()` at which the caller gives up; `TooLate` is raised before it passes.
        """

    def expected_s(self) -> float:
        """Estimate the seconds until a request sent now is scored; infinity while the model cannot be reached.

        Requests that are ahead in the queue count. Admission compares the estimate with the time left.
        """

    def close(self) -> None:
        """Release processes and memory, in the watching thread, once no new requests come. Running calls may fail."""


def uncached_path(path: ModelPath) -> ModelPath:
    """The path to the model itself."""
    inner: ModelPath = getattr(path, "inner", path)
    return inner


class ReleaseChooser(Protocol):
    """Assigns requests to the releases of a rollout."""

    def assign_release(
        self, parse: Callable[["ServedRelease"], ParsedRequest]
    ) -> tuple["ServedRelease", ParsedRequest]:
        """Return the release that answers a request, and that parsed for it; raises a `Problem` if none does."""

    def offer_to_shadow(
        self, request: ParsedRequest, parse: Callable[["ServedRelease"], ParsedRequest], clock: RequestClock
    ) -> None:
        """Offer an answered request to a candidate that only scores it."""


class AnswerWatch(Protocol):
    """Counts a sample of a release's answers, to compare them with its training data."""

    def count_if_sampled(self, answered: RequestAnswer) -> None: ...


@dataclass(slots=True)
class ServedRelease:
    """A release and all that is needed to answer requests by it."""

    loaded: OpenRelease
    path: ModelPath  # to transform and model
    parser: RequestParser
    lookups: ViewLookups
    fallbacks: tuple[Fallback, ...]  # the fallbacks, in their order
    renderer: Renderer
    cells: ModelCells
    costs: tuple[CostEstimate, ...]  # of each fallback, in the same order
    model_cost: CostEstimate = field(default_factory=lambda: CostEstimate(200_000))  # on the loop's thread
    low_cost: CostEstimate = field(default_factory=lambda: CostEstimate(50_000))  # of an answer by the last fallback
    log: AnswerLog | None = None  # of its answers; None if they are not logged
    variant: str = "current"  # which requests it answers: "current" are all while no release is rolled out
    split: ReleaseChooser | None = None  # while a release is being rolled out
    drift: AnswerWatch | None = None  # counts its answers; None if the bins of its training data are not known

    @property
    def name(self) -> str:
        return self.loaded.release.name

    @property
    def number(self) -> int:
        return self.loaded.release.number

    def learn(self, answered: RequestAnswer, spent_ns: int) -> None:
        """Update the cost estimates with the time of an answer."""
        if answered.is_by_model:
            self.model_cost.add_sample(spent_ns)
        elif answered.fallback_reason and answered.answered_by == self.fallbacks[-1].name:
            self.low_cost.add_sample(spent_ns)

    def loop_time_ns(self, answered: RequestAnswer) -> int:
        """Return the nanoseconds of an answer's stages that were spent on the event loop's thread.

        Of an answer by a fallback, those without the attempt at the model, which may have been a wait.
        """
        times = answered.times
        spent = times.parse + times.fallbacks
        if answered.fallback_reason:
            return spent
        return spent + (0 if self.lookups.is_remote() else times.lookup) + (times.model if self.path.in_loop else 0)


def serve_release(
    loaded: OpenRelease,
    path: ModelPath,
    versions: Mapping[str, VersionAnswers],
    cells: ModelCells,
    log: AnswerLog | None = None,
    drift: AnswerWatch | None = None,
    variant: str = "",
) -> ServedRelease:
    """Make a served release of a loaded one."""
    release = loaded.release
    fallbacks = open_fallbacks(release.fallbacks)
    return ServedRelease(
        loaded,
        path,
        RequestParser(release),
        ViewLookups(release.lookups, versions, refuses=release.on_contract == "refuse"),
        fallbacks,
        Renderer(release, variant=variant),
        cells,
        tuple(CostEstimate(100_000) for _ in fallbacks),
        log=log,
        variant=variant or "current",
        drift=drift,
    )


def add_cache(path: ModelPath, loaded: OpenRelease, counters: PathCounters, *, keeps_features: bool) -> ModelPath:
    """Return a path with a cache of scores before it, if the release declares one and the plug-in is installed."""
    most_bytes = loaded.release.cache_bytes
    for make_path in find_hooks("cached_path") if most_bytes else ():
        path = make_path(path, most_bytes=most_bytes, counters=counters, keeps_features=keeps_features)
    return path


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
