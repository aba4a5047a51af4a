"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """
    Attributes:
        customers, terminals: Whose features are looked up for an event; as many payments a day were landed before.
        rate, spark_rate: Events a second of the sections `event`, `commit` and `spark`: for the engine `arrow`, and for
            `spark`.
        answer_s: Length of each of its runs.
        search_s: Length of a run of the search for the highest rate, 0: no search.
        published: Keys of the pipeline that is published while its stream runs.
        publishes: How often, in the section `rewind`.
        rewind_rate, rewind_s: Events a second of the section `rewind`, and for how long.
        rewind_kill_s: Between two kills of it, on average.
        kills: Of the section `once`.
        once_rate: Events a second of it.
        once_kill_s: Between two kills of it, on average.
    """

    name: str
    customers: int
    terminals: int
    rate: float
    spark_rate: float
    answer_s: float
    search_s: float
    published: int
    publishes: int
    rewind_rate: float
    rewind_s: float
    rewind_kill_s: float
    kills: int
    once_rate: float
    once_kill_s: float


SIZES = {
    "tiny": Sizes(
        "tiny", customers=2_000, terminals=200,
        rate=200.0, spark_rate=50.0, answer_s=5.0, search_s=0.0,
        published=2_000, publishes=2, rewind_rate=100.0, rewind_s=30.0, rewind_kill_s=8.0,
        kills=3, once_rate=100.0, once_kill_s=8.0,
    ),
    "full": Sizes(
        "full", customers=100_000, terminals=10_000,
        rate=2_000.0, spark_rate=500.0, answer_s=60.0, search_s=10.0,
        published=500_000, publishes=6, rewind_rate=2_000.0, rewind_s=120.0, rewind_kill_s=8.0,
        kills=10, once_rate=500.0, once_kill_s=4.0,
    ),
}  # fmt: skip
