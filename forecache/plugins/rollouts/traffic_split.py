"""Split traffic between releases during a rollout by the hash of a request's key: a key stays in its variant.

At the shadow step the candidate scores requests that were answered; the result is logged, never sent.
"""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter_ns

from forecache.kit.http.problems import Problem
from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.served_release import ServedRelease
from forecache.realtime.deadline import RequestClock, RequestQueue
from forecache.realtime.log.answer_log import BUCKETS, Sampler, bucket_of
from forecache.realtime.release.format import Release
from forecache.realtime.release.rollout_state import RolloutState
from forecache.realtime.request.request_answer import ParsedRequest, RefusedCallError, RequestAnswer, StageTimes

logger = logging.getLogger("forecache.realtime")
_MOST = 4
"""Most requests of one worker that the candidate scores at a time."""


class ShadowScorer:
    """Scores requests by a candidate while the worker is otherwise idle."""

    def __init__(self, candidate: ServedRelease, engine: AnswerEngine, backlog: RequestQueue) -> None:
        self._candidate, self._engine, self._backlog = candidate, engine, backlog
        self._tasks: set[asyncio.Task[None]] = set()
        self.skipped = 0

    def offer(
        self, request: ParsedRequest, parse: Callable[[ServedRelease], ParsedRequest], clock: RequestClock
    ) -> None:
        """Score an answered request soon, or skip it if other requests wait."""
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
                    request.items,
                    None,
                    "order_given",
                    fallback_reason=RefusedCallError.reason,
                    request_id=request.request_id,
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


class TrafficSplit:
    """The variants of one rollout at one step, in one worker.

    Args:
        other: Answers the keys in the share: the current release at the A/A step, the candidate as a canary, or
            the current release while the candidate is unavailable.
        stand_in: The current release in the variant of the candidate, for requests that the candidate does not accept.
        shadow: Scores answered requests by the candidate at the shadow step; None at other steps.
        control: The current release, placed as the candidate is, for as many keys as `other` has; None:
            `current` answers them.
    """

    def __init__(
        self,
        state: RolloutState,
        sampler: Sampler,
        *,
        current: ServedRelease,
        other: ServedRelease,
        stand_in: ServedRelease,
        shadow: ShadowScorer | None = None,
        control: ServedRelease | None = None,
    ) -> None:
        self._sampler, self._salt = sampler, state.salt
        self._below = int(state.share * BUCKETS)
        self._control_below = control_share(state.share) * BUCKETS if control is not None else 0.0
        self._current, self._other, self._stand_in = current, other, stand_in
        self._control = control if control is not None else current
        self._same = have_same_requests(current.loaded.release, other.loaded.release)
        self.shadow = shadow

    def assign_release(self, parse: Callable[[ServedRelease], ParsedRequest]) -> tuple[ServedRelease, ParsedRequest]:
        try:
            request = parse(self._current)
        except Problem:
            return self._assign_refused(parse)
        if self.shadow is not None:
            return self._current, request
        bucket = self._bucket(request)
        if bucket >= self._below:
            return (self._control if bucket < self._control_below else self._current), request
        if self._same:
            return self._other, request
        try:
            return self._other, parse(self._other)
        except Problem:
            # A client that does not know the candidate gets an answer, which counts against the candidate.
            return self._stand_in, request

    def offer_to_shadow(
        self, request: ParsedRequest, parse: Callable[[ServedRelease], ParsedRequest], clock: RequestClock
    ) -> None:
        if self.shadow is not None and self._is_in_share(request):
            self.shadow.offer(request, parse, clock)

    def _is_in_share(self, request: ParsedRequest) -> bool:
        return self._bucket(request) < self._below

    def _bucket(self, request: ParsedRequest) -> int:
        return bucket_of(self._sampler.key_of(request), self._salt)

    def _assign_refused(self, parse: Callable[[ServedRelease], ParsedRequest]) -> tuple[ServedRelease, ParsedRequest]:
        """Assign a request that the current release refuses to the candidate, if that accepts it and has its key."""
        if not self._same and self.shadow is None:
            try:
                request = parse(self._other)
            except Problem:
                pass
            else:
                if self._is_in_share(request):
                    return self._other, request
        return self._current, parse(self._current)  # raises the problem again


def control_share(share: float) -> float:
    """The end of the control's keys, which lie behind those of a candidate with this share: as many, or all others."""
    return min(1.0, 2 * share)


def have_same_requests(one: Release, other: Release) -> bool:
    """Return True if both releases accept the same requests and parse them to the same columns."""
    return (one.request, one.candidates, one.on_unknown, one.on_nan) == (
        other.request, other.candidates, other.on_unknown, other.on_nan,
    )  # fmt: skip
