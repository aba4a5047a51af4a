"""How long a piece of work takes, learned from each time it is done."""

_WEIGHT = 1 / 32


class Cost:
    """A running mean and mean deviation, as for the retransmission timer of TCP (Jacobson 1988).

    Attributes:
        estimate: Nanoseconds within which most such work is done.
    """

    __slots__ = ("_deviation", "_mean", "estimate")

    def __init__(self, first_ns: float) -> None:
        self._mean, self._deviation = first_ns, first_ns / 2
        self.estimate = int(2 * first_ns)

    def took(self, nanoseconds: int) -> None:
        difference = nanoseconds - self._mean
        self._mean += difference * _WEIGHT
        self._deviation += (abs(difference) - self._deviation) * _WEIGHT
        self.estimate = int(self._mean + 2 * self._deviation)
