"""Bins cut on the training set: equal masses, heavy values apart, nulls in a bin of their own."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecache.base.statistics import distance, equal_mass_edges
from forecache.plugins.drift.bins import BINS, count_batches, every_nth_row


def batch(values: np.ndarray) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, from_pandas=True)], names=["x"])


def counted(values: np.ndarray, edges: list[float]) -> list[int]:
    return count_batches([batch(values)], {"x": edges})["x"]


def test_bins_of_a_continuous_feature_hold_equal_masses() -> None:
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    edges = equal_mass_edges(values, BINS)
    assert len(edges) == BINS - 1
    assert all(abs(count - 1000) < 30 for count in counted(values, edges)[:-1])


def test_a_value_that_most_rows_have_gets_a_bin_of_its_own() -> None:
    zeros, tail = np.zeros(9500, np.float32), np.arange(1, 501, dtype=np.float32)
    values = np.concatenate([zeros, tail])
    edges = equal_mass_edges(values, BINS)
    assert edges == [0.0, 1.0]
    assert counted(values, edges) == [0, 9500, 500, 0]
    assert distance(counted(values, edges), counted(np.concatenate([zeros[:500], tail]), edges)).psi > 0.25


def test_nulls_and_nan_share_the_last_bin_and_their_growth_is_drift() -> None:
    nulls = pa.RecordBatch.from_arrays([pa.array([None, 1.0, float("nan"), 3.0], pa.float32())], names=["x"])
    assert count_batches([nulls], {"x": [2.0]})["x"] == [1, 1, 2]
    assert distance([500, 500, 0], [350, 350, 300]).psi > 0.25


def test_a_feature_that_is_never_known_has_the_bins_known_and_null() -> None:
    assert equal_mass_edges(np.full(5, np.nan, np.float32), BINS) == []
    assert counted(np.array([np.nan, 1.0], np.float32), []) == [1, 1]


values = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-5, 5, width=16) | st.just(float("nan")))


@settings(deadline=None)  # a busy machine is no failure
@given(values, st.integers(1, 50))
def test_every_row_is_counted_once_however_it_is_batched(rows: np.ndarray, size: int) -> None:
    edges = equal_mass_edges(rows, BINS)
    assert edges == sorted(set(edges))
    parts = [batch(rows[i : i + size]) for i in range(0, len(rows), size)]
    apart = count_batches(parts, {"x": edges})["x"]
    assert apart == counted(rows, edges)
    assert sum(apart) == len(rows)
    assert apart[-1] == np.isnan(rows).sum()


@settings(deadline=None)  # a busy machine is no failure
@given(values, st.integers(1, 50), st.integers(1, 60))
def test_every_third_row_is_the_same_rows_however_they_are_batched(rows: np.ndarray, size: int, step: int) -> None:
    parts = [batch(rows[i : i + size]) for i in range(0, len(rows), size)]
    taken = np.concatenate([part.column("x").to_numpy(zero_copy_only=False) for part in every_nth_row(parts, step)])
    assert np.array_equal(taken, rows[::step], equal_nan=True)
