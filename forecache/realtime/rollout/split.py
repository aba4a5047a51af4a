"""Which release answers a request while one is rolled out: by the hash of its key, so that a key stays where it is."""

from collections.abc import Callable

from forecache.reader.http.problems import Problem
from forecache.realtime.deadline.clock import Clock
from forecache.realtime.log.sampling import BUCKETS, Sampler, bucket_of
from forecache.realtime.release.format import Release
from forecache.realtime.request.parsed import ParsedRequest
from forecache.realtime.rollout.shadow import Shadow
from forecache.realtime.rollout.state import RolloutState
from forecache.realtime.served import Served


class Split:
    """The arms of one rollout at one step, in one worker.

    Args:
        sampler: Knows the key of a request to the current release.
        current: Answers the keys outside of the share.
        other: Answers those in it: the current release at the A/A step, the candidate as a canary, or the current
            release in its place while the candidate cannot be asked.
        stand_in: The current release under the arm of the candidate, for requests that the candidate does not take.
        shadow: Has the candidate score requests that are answered; None at other steps.
        control: The current release, placed as the candidate is, for as many keys as `other` has; None: `current`
            answers them.
    """

    def __init__(
        self,
        state: RolloutState,
        sampler: Sampler,
        *,
        current: Served,
        other: Served,
        stand_in: Served,
        shadow: Shadow | None = None,
        control: Served | None = None,
    ) -> None:
        self._sampler, self._salt = sampler, state.salt
        self._below = int(state.share * BUCKETS)
        self._control_below = control_share(state.share) * BUCKETS if control is not None else 0.0
        self._current, self._other, self._stand_in = current, other, stand_in
        self._control = control if control is not None else current
        self._same = same_requests(current.loaded.release, other.loaded.release)
        self.shadow = shadow

    def assigned(self, parse: Callable[[Served], ParsedRequest]) -> tuple[Served, ParsedRequest]:
        """The release that answers a request, and the request as it takes it.

        Args:
            parse: Parses the request as a release takes it.

        Raises:
            Problem: The release that would answer does not take the request.
        """
        try:
            request = parse(self._current)
        except Problem:
            return self._only_taken_by_candidate(parse)
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
            # A client that knows nothing of the candidate gets its answer, and the candidate is blamed.
            return self._stand_in, request

    def after(self, request: ParsedRequest | None, parse: Callable[[Served], ParsedRequest], clock: Clock) -> None:
        """Have the candidate score a request, too, whose answer was sent; None: one that was refused."""
        if self.shadow is not None and request is not None and self._has(request):
            self.shadow.offer(request, parse, clock)

    def _has(self, request: ParsedRequest) -> bool:
        return self._bucket(request) < self._below

    def _bucket(self, request: ParsedRequest) -> int:
        return bucket_of(self._sampler.key_of(request), self._salt)

    def _only_taken_by_candidate(self, parse: Callable[[Served], ParsedRequest]) -> tuple[Served, ParsedRequest]:
        """A request that the current release refuses is answered by the candidate where its key is the candidate's."""
        if not self._same and self.shadow is None:
            try:
                request = parse(self._other)
            except Problem:
                pass
            else:
                if self._has(request):
                    return self._other, request
        return self._current, parse(self._current)  # which says what is wrong with it


def control_share(share: float) -> float:
    """The end of the control's keys, which lie behind those of a candidate with this share: as many, or all others."""
    return min(1.0, 2 * share)


def same_requests(one: Release, other: Release) -> bool:
    """Whether both releases take the same requests, and see the same in them."""
    return (one.request, one.candidates, one.on_unknown, one.on_nan) == (
        other.request, other.candidates, other.on_unknown, other.on_nan,
    )  # fmt: skip
