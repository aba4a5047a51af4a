"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """
    Attributes:
        keys: Households, and as many products, whose features are looked up by requests.
        lookup_keys: Keys of the section `lookup`; Feast holds `feast_keys` of them.
        probe_s: Length of a try at a rate, while the best rate is searched.
        final_s, finals: Length and number of the runs at the rate that is published.
        window_s: Length of a run of the sections `overload` and `faults`.
        swap_window_s, swap_rounds: Length of a run with publishes and swaps, and how many there are.
        balanced_s: Length of a run behind a balancer.
        plain_s, plain_rounds: Length of a run of plain reads, and how many pairs of processes there are.
        distinct: Different requests of the section `cached`.
        slack: Limits on latencies are so many times wider, to try the benchmark on a machine that is not quiet.
    """

    name: str
    keys: int
    lookup_keys: int
    feast_keys: int
    lookups: int
    probe_s: float
    final_s: float
    finals: int
    window_s: float
    publishes: int
    swaps: int
    swap_window_s: float
    swap_rounds: int
    balanced_s: float
    balanced_rate: int
    plain_s: float
    plain_rounds: int
    distinct: int
    slack: float = 1.0


SIZES = {
    "tiny": Sizes("tiny", 2_000, 5_000, 1_000, 200, 1.0, 1.0, 1, 3.0, 2, 1, 8.0, 1, 4.0, 200, 1.0, 2, 2_000, 50.0),
    "full": Sizes(
        "full", 100_000, 2_000_000, 20_000, 4_000, 2.0, 6.0, 3, 9.0, 20, 5, 30.0, 3, 12.0, 2_000, 3.0, 6, 100_000
    ),
}
