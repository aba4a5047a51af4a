"""Answer a parsed request: by the model if there is time, else by the best fallback that there is time for."""

from collections.abc import Mapping
from math import inf
from time import monotonic, perf_counter_ns, time

import numpy as np

from forecache.base.plugins import load_hook
from forecache.realtime.answer.fallbacks import fallback_answer, model_answer
from forecache.realtime.answer.model_path import NoScores, TooLate
from forecache.realtime.answer.request_answer import RequestAnswer, StageTimes
from forecache.realtime.deadline.clock import RequestClock
from forecache.realtime.request.parsed_request import LookupResult, ParsedRequest
from forecache.realtime.served_release import ServedRelease
from forecache.serve.reader.versions.answers import VersionAnswers

_GIVEN_UP_SHARE = 1 / 3
"""Share of the model's time that a request given up for others may take. With more, giving it up would gain nothing,
and a worker that has fallen behind would stay behind."""
_MARGIN_NS, _MARGIN_SHARE = 2_000_000, 0.1
"""Time reserved for finishing the answer when a model in another process has used up its time: so many nanoseconds,
or this share of the deadline if that is less."""


class AnswerEngine:
    """The answers of one worker.

    Args:
        versions: The served versions by store name, kept up to date by the reader.
    """

    def __init__(self, versions: Mapping[str, VersionAnswers]) -> None:
        self._versions = versions

    def answer_now(
        self,
        served: ServedRelease,
        request: ParsedRequest,
        clock: RequestClock,
        times: StageTimes,
        *,
        why: str = "",
        waiting: int = 0,
    ) -> RequestAnswer:
        """Answer a request to a model that runs on this thread.

        Args:
            why: Reason why the model must not be called; "" if it may.
            waiting: Number of further requests that wait for this thread.

        Raises:
            Problem: The key of a look-up is not valid.
        """
        if not request.length:
            return _empty_answer(request, times)
        now = time()
        if not why and not served.model_cost.fits(clock.until - perf_counter_ns()):
            why = TooLate.reason
        found = LookupResult()
        if not why:
            began = perf_counter_ns()
            try:
                found = served.lookups.read(request, now)
                times.lookup = perf_counter_ns() - began
                path = served.path
                scores = path.score_now(request, found, _left_for_model(served, clock))
                times.transform, times.model = path.times.transform, path.times.model
            except NoScores as error:
                why = error.reason
            else:
                return self._answer_by_model(served, request, found, scores, now, times)
        answered = self.answer_by_fallback(served, request, clock, times, why=why, waiting=waiting)
        answered.features, answered.live = _features_of(found, answered), found.merged
        return answered

    async def answer(
        self, served: ServedRelease, request: ParsedRequest, clock: RequestClock, times: StageTimes
    ) -> RequestAnswer:
        """Answer a request to any model, within its deadline.

        Raises:
            Problem: The key of a look-up is not valid.
        """
        remote = served.lookups.is_remote()
        if served.path.in_loop and not remote:
            return self.answer_now(served, request, clock, times)
        if not request.length:
            return _empty_answer(request, times)
        margin = min(_MARGIN_NS, int(clock.deadline_ms * 1e6 * _MARGIN_SHARE))
        until = monotonic() + (_left_for_model(served, clock) - margin) / 1e9
        began, found = perf_counter_ns(), LookupResult()
        try:
            _check_time_for_model(served, until)
            found = (
                await load_hook("redis", "read_remote")(served.lookups, request, until, served.cells.path_counters)
                if remote
                else served.lookups.read(request, time())
            )
            times.lookup = perf_counter_ns() - began
            began = perf_counter_ns()
            _check_time_for_model(served, until)
            if served.path.in_loop:
                scores = served.path.score_now(request, found, int((until - monotonic()) * 1e9))
            else:
                scores = await served.path.score(request, found, until)
            times.model = perf_counter_ns() - began
        except NoScores as error:
            times.model = perf_counter_ns() - began
            answered = self.answer_by_fallback(served, request, clock, times, why=error.reason)
            answered.features, answered.live = _features_of(found, answered), found.merged
            return answered
        return self._answer_by_model(served, request, found, scores, time(), times)

    def answer_by_fallback(
        self,
        served: ServedRelease,
        request: ParsedRequest,
        clock: RequestClock,
        times: StageTimes,
        *,
        why: str,
        waiting: int = 0,
    ) -> RequestAnswer:
        """Answer by the best fallback that there is time for."""
        began = perf_counter_ns()
        left, rungs = _left_for_fallback(served, clock, began, waiting), served.rungs
        first = next((place for place, cost in enumerate(served.costs) if cost.fits(left)), len(rungs) - 1)
        answered = fallback_answer(request, rungs[first:], self._versions, time())
        times.ladder = perf_counter_ns() - began
        served.costs[first].add_sample(times.ladder)
        answered.why, answered.times = why, times
        return answered

    def has_time_for_last_only(self, served: ServedRelease, clock: RequestClock, waiting: int) -> bool:
        """Return True if there is time for the last fallback only, and it needs nothing but the candidates' names."""
        left = _left_for_fallback(served, clock, perf_counter_ns(), waiting)
        return not served.rungs[-1].needs_request and not any(cost.fits(left) for cost in served.costs[:-1])

    def answer_by_last_fallback(
        self, served: ServedRelease, request: ParsedRequest, times: StageTimes, *, why: str
    ) -> RequestAnswer:
        """Answer by the last fallback; only the candidates' names of the request have been parsed."""
        if not request.length:
            answered = _empty_answer(request, times)
            answered.why = why
            return answered
        rung = served.rungs[-1]
        scores = rung.scores(request, self._versions, 0.0, {})
        return RequestAnswer(request.items, scores, rung.name, why=why, request_id=request.request_id, times=times)

    def _answer_by_model(
        self,
        served: ServedRelease,
        request: ParsedRequest,
        found: LookupResult,
        scores: np.ndarray,
        now: float,
        times: StageTimes,
    ) -> RequestAnswer:
        answered = model_answer(request, scores)
        if answered is None:
            began = perf_counter_ns()
            answered = fallback_answer(
                request, served.rungs, self._versions, now, scores=scores, used=dict(found.versions)
            )  # fmt: skip
            times.ladder = perf_counter_ns() - began
        else:
            answered.used = found.versions
        answered.flags, answered.times, answered.live = found.flags, times, found.merged
        answered.features = _features_of(found, answered)
        return answered


def _check_time_for_model(served: ServedRelease, until: float) -> None:
    """Raise `TooLate` if the model would not be done by `until`."""
    left = until - monotonic()
    if left <= 0 or (
        not served.model_cost.fits(left * 1e9) if served.path.in_loop else left < served.path.expected_s() < inf
    ):
        raise TooLate


def _left_for_fallback(served: ServedRelease, clock: RequestClock, now: int, waiting: int) -> float:
    """Return the nanoseconds that a fallback may take; much less than the model takes while other requests wait."""
    left = clock.until - now
    # The waiting requests usually have as little time as this one.
    return min(left / (waiting + 1), served.model_cost.estimate * _GIVEN_UP_SHARE) if waiting else left


def _left_for_model(served: ServedRelease, clock: RequestClock) -> int:
    """Return the nanoseconds that the model may take, so that time for the last fallback remains."""
    left = clock.until - perf_counter_ns()
    return left - min(served.low_cost.estimate, max(0, left // 4))


def _features_of(found: LookupResult, answered: RequestAnswer) -> np.ndarray | bytes | None:
    """Return the features for the log; None if a store was swapped meanwhile: the answer then names other versions."""
    used = answered.used
    if used is not found.versions and any(used.get(name, of) is not of for name, of in found.versions.items()):
        return None
    return found.features


def _empty_answer(request: ParsedRequest, times: StageTimes) -> RequestAnswer:
    """Make the answer to a request without candidates."""
    return RequestAnswer((), None, "order_given", request_id=request.request_id, times=times)
