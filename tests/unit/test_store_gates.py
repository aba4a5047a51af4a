"""Publish gates: each says no for its own reason, and the drift measure is the textbook's."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forecache.base.errors import CheckError
from forecache.base.statistics import bin_counts, psi
from forecache.declare import Publish
from forecache.serve.store.publishing.publication import check_gates, measure_drift, publish_statistics

ALL = Publish(max_row_change=0.5, max_null_share=0.1, max_psi=0.2)


def manifest(rows: int, **facts: Any) -> Any:
    return SimpleNamespace(version=7, **{"statistics": {"rows": rows}, **facts})


def test_the_index_is_the_sum_over_bins_of_shift_times_log_ratio() -> None:
    value = psi(np.array([50.0, 50.0]), np.array([80.0, 20.0]))
    assert value == pytest.approx(0.3 * math.log(0.8 / 0.5) - 0.3 * math.log(0.2 / 0.5))
    assert psi(np.array([5.0, 5.0]), np.array([500.0, 500.0])) == 0.0
    assert psi(np.zeros(2), np.ones(2)) == 0.0


def test_a_sample_of_the_same_distribution_does_not_drift_and_a_shifted_one_does() -> None:
    random = np.random.default_rng(0)
    before = manifest(100_000, statistics=publish_statistics(100_000, {"score": 0}, {"score": random.random(50_000)}))
    assert measure_drift(before, {"score": random.random(50_000)})["score"] < 0.01
    assert measure_drift(before, {"score": random.random(50_000) ** 2})["score"] > 0.2
    assert measure_drift(before, {"other": random.random(10)}) == {}


@pytest.mark.parametrize("rows", [20, 50, 100, 300, 5000])
def test_chance_is_no_drift_however_few_the_rows_and_a_collapse_is(rows: int) -> None:
    random = np.random.default_rng(0)
    most = Publish().max_psi
    assert most is not None

    def drift(values: np.ndarray) -> float:
        before = manifest(rows, statistics=publish_statistics(rows, {"score": 0}, {"score": random.random(rows)}))
        return measure_drift(before, {"score": values})["score"]

    nights = [drift(random.random(rows)) for _ in range(200)]
    assert sum(night > most for night in nights) <= 10
    assert drift(np.full(rows, 0.5)) > most


def test_histograms_are_scaled_to_the_values_that_are_known() -> None:
    found = publish_statistics(1000, {"score": 100}, {"score": np.arange(90, dtype=float)})["histograms"]["score"]
    assert sum(found["counts"]) == pytest.approx(900)
    assert len(found["counts"]) == len(found["edges"]) + 1
    assert bin_counts([1.0, 2.0], np.array([0.5, 1.0, 1.5, 2.0])).tolist() == [1.0, 2.0, 1.0]
    assert publish_statistics(5, {"score": 5}, {"score": np.empty(0)})["histograms"]["score"] == {
        "edges": [],
        "counts": [0.0],
    }


def test_every_gate_that_says_no_is_named_with_its_figures() -> None:
    with pytest.raises(CheckError) as caught:
        check_gates(ALL, current=manifest(100), rows=10, nulls={"score": 4}, drifted={"score": 0.3})
    for words in ("from 100 to 10, a change of 90%", "4 of 10 values of 'score' are null", "index of 0.300"):
        assert words in str(caught.value)


def test_gates_within_bounds_or_switched_off_say_nothing() -> None:
    check_gates(ALL, current=manifest(100), rows=150, nulls={"score": 15}, drifted={"score": 0.2})
    check_gates(ALL, current=None, rows=10, nulls={"score": 1}, drifted={})
    off = Publish(max_row_change=None, max_null_share=1.0, max_psi=None)
    check_gates(off, current=manifest(100), rows=1, nulls={"score": 1}, drifted={"score": 9.0})
