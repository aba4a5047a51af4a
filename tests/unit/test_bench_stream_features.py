"""The benchmark of streams counts features once more, and would see where they are others."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

from _stream import computed_again, plain_windows  # noqa: E402  # the benchmarks are no package
from _stream.same_features import compared, matrix_of, total  # noqa: E402
from _stream.traffic import Traffic  # noqa: E402

BEGIN_US = 1_800_000_000_000_000
DAY_US, TILE_US = 86_400_000_000, 300_000_000


def some_payments(count: int, first_us: int, span_us: int, seed: int) -> plain_windows.Payments:
    """Payments of few customers and terminals, in no order of their times."""
    rng = np.random.default_rng(seed)
    at_us = first_us + rng.integers(0, span_us, count)
    return plain_windows.Payments(
        rng.integers(0, 4, count), rng.integers(0, 3, count), at_us, rng.integers(1, 500, count)
    )


def counted(key: str, before: list[plain_windows.Payments], at_us: int, mine: int) -> list[float]:
    """The features of one key at a moment from all payments before, without anything kept in between."""
    own = [(each.at_us[getattr(each, key) == mine], each.amount[getattr(each, key) == mine]) for each in before]
    late = own[1][1][(own[1][0] // TILE_US > at_us // TILE_US - 3) & (own[1][0] // TILE_US <= at_us // TILE_US)]
    at, amount = (np.concatenate([part[place] for part in own]) for place in (0, 1))
    ages = at_us // DAY_US - at // DAY_US
    today, week = amount[ages == 0], amount[(ages >= 0) & (ages < 7)]
    if key == "terminal":
        return [len(late), len(today), len(week), week.sum()]
    means = [part.sum() / len(part) if len(part) else 0.0 for part in (today, week)]
    return [len(late), late.sum(), len(today), means[0], len(week), means[1], max(week, default=0)]


def test_plain_windows_are_what_all_payments_before_add_up_to() -> None:
    landed = some_payments(80, BEGIN_US // DAY_US * DAY_US - 9 * DAY_US, 9 * DAY_US, 1)
    streamed = some_payments(150, BEGIN_US // DAY_US * DAY_US + DAY_US - 3_600_000_000, 2 * 3_600_000_000, 2)
    found = plain_windows.features(landed, streamed)
    assert found.dtype == np.float32
    for place, (customer, terminal, at_us, amount) in enumerate(streamed):
        seen = [landed, plain_windows.Payments(*(column[:place] for column in vars(streamed).values()))]
        wanted = [amount, at_us % DAY_US / 3.6e9, *counted("customer", seen, at_us, customer)]
        wanted += counted("terminal", seen, at_us, terminal)
        assert found[place].tobytes() == np.array(wanted, np.float64).astype(np.float32).tobytes(), place
    assert (found[:, 2] < found[:, 4]).any(), "some window of minutes is shorter than the day"


def test_features_that_differ_lack_or_are_too_many_are_told_apart() -> None:
    ids, batch = np.arange(5), np.array([[1, np.nan], [2, 0.5], [3, 0.5], [4, np.nan], [5, 0]], np.float32)
    streamed = batch.copy()
    assert total(compared(["a", "b"], (ids, streamed), (ids, batch)), "differ") == 0
    streamed[1, 0], streamed[2, 1], streamed[3, 1] = np.nextafter(np.float32(2), np.float32(3)), np.nan, 7
    streamed[4, 1] = -0.0
    found = compared(["a", "b"], (np.array([4, 2, 1, 3, 9]), streamed[[4, 2, 1, 3, 0]]), (ids, batch))
    assert (found["compared"], found["missing"], found["extra"]) == (4, 1, 1)
    assert found["features"]["a"] == {"differ": 1, "missing": 0, "extra": 0}
    assert found["features"]["b"] == {"differ": 1, "missing": 1, "extra": 1}


def test_kept_features_are_read_as_a_matrix() -> None:
    lists = pa.chunked_array([[[1.0, float("nan")], None], [[3.0, 4.0]]], pa.list_(pa.float32()))
    wanted = np.array([[1, np.nan], [np.nan, np.nan], [3, 4]], np.float32)
    assert np.array_equal(matrix_of(lists, 2), wanted, equal_nan=True)


def test_rows_are_computed_again_in_the_order_of_the_table() -> None:
    rows = pa.table({"transaction_id": [9, 7, 8, 7, 5], "position": [2, 3, 1, 1, 0], "place": [0, 0, 1, 0, 0]})
    assert computed_again.first_rows(rows, Traffic(begin_us=BEGIN_US, rate=100.0, count=3, first=7))[
        "transaction_id"
    ].to_pylist() == [7, 8, 9]
