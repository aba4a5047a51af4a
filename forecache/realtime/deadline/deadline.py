"""The decision by the deadline: may a piece of work still begin? And the running estimates of what work costs.

Every step asks `may_begin`: the admission of a request, its turn in the queue, its look-ups, its model, each fallback,
and the model behind the cache. Only a call that has begun is limited by other means: by the guard of the event loop
(`forecache.realtime.answer.cpu_guard`), or because nobody waits for its worker process any longer.
"""

from collections.abc import Sequence
from time import perf_counter_ns

_WEIGHT, _LEAST_WEIGHT = 1 / 32, 1 / 256
_FORGET_NS = 250_000_000
"""After this time without a sample, the estimate of work that is refused as too slow is halved: nothing else would show
that it has become fast again. The estimate does not fall below the fastest samples."""
_GIVEN_UP_SHARE = 1 / 3
"""Share of the model's time that a request given up for others may take: a worker that has fallen behind would stay
behind if it were more."""
_MARGIN_NS, _MARGIN_SHARE = 2_000_000, 0.1
"""Time reserved for finishing the answer when a model in another process has used up its time: so many nanoseconds,
or this share of the deadline if that is less."""


class CostEstimate:
    """A running mean and mean deviation, as for the retransmission timer of TCP (Jacobson 1988).

    Attributes:
        estimate: Nanoseconds within which most such work is done.
    """

    __slots__ = ("_deviation", "_learned", "_least", "_mean", "estimate")

    def __init__(self, first_ns: float) -> None:
        self._mean, self._deviation = first_ns, first_ns / 2
        self._least, self._learned = 0.0, perf_counter_ns()
        self.estimate = int(2 * first_ns)

    def add_sample(self, nanoseconds: int) -> None:
        difference = nanoseconds - self._mean
        self._mean += difference * _WEIGHT
        self._deviation += (abs(difference) - self._deviation) * _WEIGHT
        least = self._least or nanoseconds
        self._least = min(nanoseconds, least + (nanoseconds - least) * _LEAST_WEIGHT)
        self._learned = perf_counter_ns()
        self.estimate = int(self._mean + 2 * self._deviation)

    def fits(self, left_ns: float) -> bool:
        """Return True if such work is expected to be done within this time."""
        if self.estimate > left_ns and (now := perf_counter_ns()) - self._learned > _FORGET_NS:
            self._learned = now
            self._mean, self._deviation = max(self._mean / 2, self._least), self._deviation / 2
            self.estimate = int(self._mean + 2 * self._deviation)
        return self.estimate <= left_ns


def may_begin(
    cost: CostEstimate | float, now: float, until: float, *, reserve: float = 0, waiting: int = 0, most: float = 0
) -> bool:
    """Decide if work may begin: it is expected to end in time. All times are of one clock, in one unit.

    Args:
        cost: The estimate of the work (in nanoseconds), or the expected time.
        until: The deadline.
        reserve: Time that later steps need.
        waiting: Number of requests behind this one; they usually have as little time, and get as much of it.
        most: Longest time that the work may take, however late the deadline is; 0: no such limit.
    """
    left = until - now - reserve
    if waiting:
        left /= waiting + 1
    if most and left > most:
        left = most
    return cost.fits(left) if isinstance(cost, CostEstimate) else cost <= left


def choose_fallback(
    costs: Sequence[CostEstimate], model_cost: CostEstimate, now_ns: int, until_ns: int, waiting: int
) -> int:
    """Return the index of the best fallback that may begin; the last one always may.

    While others wait, it may take much less than the model: else giving a request up for them would gain nothing.
    """
    most, last = model_cost.estimate * _GIVEN_UP_SHARE if waiting else 0, len(costs) - 1
    for place in range(last):
        if may_begin(costs[place], now_ns, until_ns, waiting=waiting, most=most):
            return place
    return last


def time_for_model(low_cost: CostEstimate, left_ns: int) -> int:
    """Return the nanoseconds that the model may take of those left, so that time for the last fallback remains."""
    return left_ns - min(low_cost.estimate, max(0, left_ns // 4))


def time_to_finish(deadline_ms: float) -> int:
    """Return the nanoseconds that a model in another process must leave to finish the answer."""
    return min(_MARGIN_NS, int(deadline_ms * 1e6 * _MARGIN_SHARE))
