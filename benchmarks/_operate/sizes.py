"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """
    Attributes:
        keys: Households, and as many products, whose features are looked up by requests.
        pairs, window_s: Of the section `log`: pairs of runs, with and without the log, and the length of each.
        paced_rate: Requests a second at which latencies are compared.
        rate, keep_s: Of the section `keeps-up`.
        replayed: Answers of the section `parity`.
        rollouts, returns: Simulated rollouts of a worse release, and of an equal one.
    """

    name: str
    keys: int
    pairs: int
    window_s: float
    paced_rate: float
    rate: float
    keep_s: float
    replayed: int
    rollouts: int
    returns: int


SIZES = {
    "tiny": Sizes("tiny", 2_000, 2, 1.0, 200.0, 300.0, 3.0, 3_000, 20, 20),
    "full": Sizes("full", 100_000, 8, 4.0, 1_500.0, 3_000.0, 60.0, 200_000, 200, 1_000),
}
