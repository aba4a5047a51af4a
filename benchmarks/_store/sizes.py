"""How much is measured: in full, and tiny to try the benchmark itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Row counts and durations.

    Attributes:
        http_keys: Keys in every store that answers over HTTP, and in the store whose versions are swapped.
        big_keys: Keys of the publishing and in-process sections.
        memory_keys: Keys of the publishes whose memory is watched besides.
        feast_rows: Two numbers of rows that `feast materialize` writes: what the larger takes longer has no fixed cost.
        load_rows: Rows that `redis-cli --pipe` and PostgreSQL's COPY load.
        repeats: Load runs of `load_s` in one pass, after `warm_s` that is not counted.
        changed_share: Share of the keys that differ in an incremental publish and in each swap.
        swap_passes: Passes of the section with publishes under load.
        rates: Requests per second of the open loop that every server gets, and that the fast ones get.
        open_s: Seconds of each open-loop run.
        open_repeats: Open-loop runs of each server and rate.
    """

    name: str
    http_keys: int
    big_keys: int
    memory_keys: int
    feast_rows: tuple[int, int]
    load_rows: int
    repeats: int
    load_s: float
    warm_s: float
    gets: int
    feast_gets: int
    changed_share: float
    swaps: int
    swap_window_s: float
    swap_passes: int
    quiet_window_s: float
    checked_keys: int
    rates: tuple[int, int]
    open_s: float
    open_repeats: int


SIZES = {
    "full": Sizes(
        name="full",
        http_keys=500_000,
        big_keys=10_000_000,
        memory_keys=20_000_000,
        feast_rows=(100_000, 250_000),
        load_rows=2_000_000,
        repeats=1,
        load_s=3.0,
        warm_s=1.0,
        gets=500_000,
        feast_gets=500,
        changed_share=0.01,
        swaps=10,
        swap_window_s=30.0,
        swap_passes=3,
        quiet_window_s=8.0,
        checked_keys=200,
        rates=(500, 5_000),
        open_s=6.0,
        open_repeats=2,
    ),
    "tiny": Sizes(
        name="tiny",
        http_keys=20_000,
        big_keys=100_000,
        memory_keys=200_000,
        feast_rows=(1_000, 2_000),
        load_rows=20_000,
        repeats=1,
        load_s=1.0,
        warm_s=1.0,
        gets=20_000,
        feast_gets=20,
        changed_share=0.01,
        swaps=3,
        swap_window_s=8.0,
        swap_passes=1,
        quiet_window_s=1.0,
        checked_keys=50,
        rates=(100, 500),
        open_s=3.0,
        open_repeats=1,
    ),
}
CONNECTIONS = {"one": 16, "many": 4}
KEYS_PER_REQUEST = {"one": 1, "many": 100}
