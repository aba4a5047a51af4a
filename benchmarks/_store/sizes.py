"""How much is measured: the sizes that the figures are about, and small ones to try the benchmark itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Row counts and durations.

    Attributes:
        http_keys: Keys in every store that answers over HTTP, and in the store whose versions are swapped.
        big_keys: Keys of the publishing and in-process sections.
        memory_keys: Keys of the full publish whose memory has a floor; the first pass makes it.
        feast_rows: Rows that `feast materialize` writes in the publishing section; its rate is compared, not its time.
        repeats: Load runs of `load_s` in one pass, after `warm_s` that is not counted.
        changed_share: Share of the keys that differ in an incremental publish and in each swap.
    """

    name: str
    http_keys: int
    big_keys: int
    memory_keys: int
    feast_rows: int
    repeats: int
    load_s: float
    warm_s: float
    gets: int
    feast_gets: int
    changed_share: float
    swaps: int
    swap_window_s: float
    quiet_window_s: float
    checked_keys: int


FULL = Sizes(
    name="full",
    http_keys=2_000_000,
    big_keys=10_000_000,
    memory_keys=20_000_000,
    feast_rows=200_000,
    repeats=2,
    load_s=3.0,
    warm_s=1.0,
    gets=1_000_000,
    feast_gets=1_000,
    changed_share=0.01,
    swaps=20,
    swap_window_s=60.0,
    quiet_window_s=15.0,
    checked_keys=200,
)

SMALL = Sizes(
    name="small",
    http_keys=20_000,
    big_keys=100_000,
    memory_keys=200_000,
    feast_rows=2_000,
    repeats=1,
    load_s=0.5,
    warm_s=0.2,
    gets=20_000,
    feast_gets=20,
    changed_share=0.01,
    swaps=3,
    swap_window_s=4.0,
    quiet_window_s=1.0,
    checked_keys=50,
)

SIZES = {sizes.name: sizes for sizes in (FULL, SMALL)}
CONNECTIONS = {"one": 16, "many": 4}
KEYS_PER_REQUEST = {"one": 1, "many": 100}
