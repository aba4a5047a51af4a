"""Running estimate of how long a piece of work takes."""

from time import perf_counter_ns

_WEIGHT, _LEAST_WEIGHT = 1 / 32, 1 / 256
_FORGET_NS = 250_000_000
"""After this time without a sample, the estimate of work that is refused as too slow is halved: nothing else would show
that it has become fast again. The estimate does not fall below the fastest samples."""


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
