"""How much each section does: in full, and tiny to see that it works."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Rows of the tables, seconds and repeats of the measurements."""

    reading_rows: int
    seconds: float
    repeats: int
    wide_rows: int
    wide_repeats: int
    memory_rows: tuple[int, int]
    chaos_rows: int
    chaos_epochs: int
    kills: int
    chaos_seed: int = 11


SIZES = {
    "full": Sizes(
        reading_rows=1_000_000,
        seconds=8.0,
        repeats=2,
        wide_rows=60_000,
        wide_repeats=1,
        memory_rows=(1_000_000, 20_000_000),
        chaos_rows=60_000,
        chaos_epochs=8,
        kills=10,
    ),
    "tiny": Sizes(
        reading_rows=50_000,
        seconds=0.5,
        repeats=1,
        wide_rows=4_000,
        wide_repeats=1,
        memory_rows=(50_000, 100_000),
        chaos_rows=20_000,
        chaos_epochs=6,
        kills=2,
    ),
}
