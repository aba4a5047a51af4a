"""Live drift: counts in the bins of the training data, over workers and windows, within a share of the time."""

import math
import subprocess
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitoring_services import program

from forecache.base.statistics import bin_counts, equal_mass_edges
from forecache.kit.metrics.page import MetricsPage
from forecache.plugins.drift import live_counts as watch_module
from forecache.plugins.drift.live_counts import (
    ABOVE,
    BELOW,
    NULL,
    REQUESTS,
    ROWS,
    SCORE,
    ColumnBins,
    DriftCells,
    DriftReference,
    DriftWatch,
    num_counts,
    open_watch,
    read_reference,
)
from forecache.plugins.drift.live_metrics import LEAST_REQUESTS, add_drift, live_drift
from forecache.realtime.request.request_answer import RequestAnswer, StageTimes

EVEN = tuple(k / 10 for k in range(1, 10))


def reference(*, score: bool = True, name: str = "price") -> DriftReference:
    """A feature that was even between 0 and 1, another that had one value, and perhaps a score."""
    columns = [ColumnBins(name, EVEN, (*[1000] * 10, 100), 0.0, 1.0), ColumnBins("flag", (), (10_100, 0), 7.0, 7.0)]
    return DriftReference(
        (*columns, *([ColumnBins(SCORE, EVEN, (*[1010] * 10, 0))] if score else [])), "a training split"
    )


def answered(features: Any, scores: Any = None, answered_by: str = "model", *, model_ns: int = 10**9) -> RequestAnswer:
    found = RequestAnswer(
        (), None if scores is None else np.asarray(scores, np.float64), answered_by, times=StageTimes(model=model_ns)
    )
    found.features = features
    return found


def always(of: DriftReference, memory: memoryview, *, window_s: float = 3600.0) -> DriftWatch:
    """Counts every answer."""
    watch = open_watch(memory, "search", of, window_s=window_s)
    assert watch is not None
    watch._share = 1.0
    return watch


@pytest.fixture
def memory() -> memoryview:
    return memoryview(bytearray(64 * 1024))


def test_a_reference_is_read_back_as_it_was_written() -> None:
    again = read_reference(reference().to_json())
    assert again == reference()
    assert again.key == reference().key != reference(name="cost").key


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=40),
    st.lists(st.floats(-5, 5), max_size=6, unique=True).map(sorted),
)
def test_values_are_counted_as_bin_counts_counts_them(values: list[float], edges: list[float]) -> None:
    column = ColumnBins("x", tuple(edges), (0,) * (len(edges) + 2))
    other = ColumnBins("y", (0.5,), (0, 0, 0), -1.0, 1.0)
    of = DriftReference((column, other), "")
    array = np.asarray(values, np.float32)
    counts = of.count(np.column_stack([array, array]))
    known = array[~np.isnan(array)]
    found = of.counts_by_bin(0, counts.tolist())
    assert [found[str(place)] for place in range(len(edges) + 1)] == bin_counts(edges, known.astype(float)).tolist()
    assert (found[BELOW], found[ABOVE], found[NULL]) == (0, 0, len(array) - len(known))
    assert of.counts_by_bin(1, counts.tolist()) == {
        BELOW: int((known < -1).sum()),
        "0": int(((known >= -1) & (known < 0.5)).sum()),
        "1": int(((known >= 0.5) & (known <= 1)).sum()),
        ABOVE: int((known > 1).sum()),
        NULL: len(array) - len(known),
    }


def test_the_training_data_itself_is_counted_as_the_reference_says() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=5_000).astype(np.float32)
    edges = equal_mass_edges(values, 10)
    counts = bin_counts(edges, values)
    low, high = float(values.min()), float(values.max())
    of = DriftReference((ColumnBins("x", tuple(edges), (*counts.tolist(), 0), low, high),), "")
    assert of.counts_by_bin(0, of.count(values[:, None]).tolist()) == of.training_counts_by_bin(0)


def test_features_and_scores_are_counted_and_a_lower_fallback_has_no_score(memory: memoryview) -> None:
    of = reference()
    watch = always(of, memory)
    watch.count_if_sampled(answered(np.array([[0.05, 7], [0.95, 7], [np.nan, 8]], np.float32), [0.11, 0.21, 0.21]))
    watch.count_if_sampled(answered(np.array([[-1, 6]], np.float32).tobytes(), [0.5], answered_by="precomputed"))
    watch.count_if_sampled(answered(None, [0.5], answered_by="precomputed"))
    [block] = DriftCells(memory).blocks()
    counts = block.total.tolist()
    assert (counts[REQUESTS], counts[ROWS]) == (2, 4)
    assert {name: count for name, count in of.counts_by_bin(0, counts).items() if count} == {
        BELOW: 1,
        "0": 1,
        "9": 1,
        NULL: 1,
    }
    assert of.counts_by_bin(1, counts) == {BELOW: 1, "0": 2, ABOVE: 1, NULL: 0}
    assert {name: count for name, count in of.counts_by_bin(2, counts).items() if count} == {"1": 1, "2": 2, NULL: 1}


def test_workers_are_added_and_one_that_starts_again_goes_on(memory: memoryview) -> None:
    of, other = reference(score=False), memoryview(bytearray(64 * 1024))
    features = np.array([[0.5, 7]], np.float32)
    for each in (memory, other, memory):
        always(of, each).count_if_sampled(answered(features))
    found = live_drift([memory, other], {"search": of}, window_s=3600)["search"]
    assert found.total[REQUESTS] == found.recent[REQUESTS] == 3
    assert found.seconds > 0


def test_a_release_with_other_bins_begins_anew_in_the_same_memory(memory: memoryview) -> None:
    old, new = reference(score=False), reference(score=False, name="cost")
    always(old, memory).count_if_sampled(answered(np.array([[0.5, 7]], np.float32)))
    always(new, memory)
    assert [block.key for block in DriftCells(memory).blocks()] == [new.key]
    assert live_drift([memory], {"search": old}, window_s=3600) == {}
    assert live_drift([memory], {"search": new}, window_s=3600)["search"].total.sum() == 0


def test_a_release_with_more_features_gets_another_block_and_the_old_one_is_used_again(memory: memoryview) -> None:
    small, large = reference(score=False), reference()
    always(small, memory)
    always(large, memory)
    cells = DriftCells(memory)
    assert [block.key for block in cells.blocks()] == [large.key]
    other = cells.open("basket", small.key, num_counts(small), time.monotonic())
    assert other is not None
    assert [block.name for block in cells.blocks()] == ["basket", "search"]


def test_without_memory_nothing_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    assert open_watch(memoryview(bytearray(1024)), "search", reference(), window_s=3600) is None
    assert "no memory left to count the drift of search" in caplog.text


def test_the_window_holds_what_was_counted_in_the_last_one_to_two(
    memory: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, clock = reference(score=False), [10_000.0]
    monkeypatch.setattr(watch_module, "monotonic", lambda: clock[0])
    watch = always(of, memory, window_s=100)
    [block] = DriftCells(memory).blocks()
    seen = []
    for now in (10_000, 10_050, 10_120, 10_230, 10_600):
        clock[0] = now
        watch._share = 1.0
        watch.count_if_sampled(answered(np.array([[0.5, 7]], np.float32)))
        seen.append(int(block.recent_counts(now, 100)[REQUESTS]))
    assert seen == [1, 2, 3, 2, 1]
    assert [int(block.recent_counts(now, 100)[REQUESTS]) for now in (10_699, 10_750, 10_801)] == [1, 1, 0]
    assert int(block.total[REQUESTS]) == 5


def share_of_counting() -> float:
    """Real times of counting 50 candidates of 32 features, against answers of 290 us."""
    columns = tuple(ColumnBins(f"f{place}", EVEN, (*[100] * 10, 0), 0.0, 1.0) for place in range(32))
    of = DriftReference((*columns, ColumnBins(SCORE, EVEN, (*[100] * 10, 0))), "")
    block = DriftCells(memoryview(bytearray(64 * 1024))).open("search", of.key, num_counts(of), time.monotonic())
    assert block is not None
    watch = DriftWatch(of, block, window_s=3600)
    features = np.random.default_rng(2).random((50, 32), np.float32)
    one = answered(features, np.full(50, 0.5), model_ns=290_000)
    for _ in range(20_000):
        watch.count_if_sampled(one)
    if block.total[REQUESTS] <= 20:  # of a busy machine it takes fewer
        return math.inf
    return block.seconds / (20_000 * 290e-6)


def test_counting_takes_a_small_share_of_the_answers_time() -> None:
    """A busy machine may keep one of the counts from the processor for longer than all of them take."""
    assert any(share_of_counting() < 0.02 for _ in range(20))


def test_a_failure_while_counting_costs_the_count_only(memory: memoryview, caplog: pytest.LogCaptureFixture) -> None:
    watch = always(reference(), memory)
    watch.count_if_sampled(answered(np.zeros((2, 3), np.float32), [0.1, 0.2]))
    assert "could not be counted for drift" in caplog.text


def drift_of(values: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    of, memory = reference(), memoryview(bytearray(64 * 1024))
    watch = always(of, memory)
    for feature, score in zip(values.astype(np.float32), scores, strict=True):
        watch._share = 1.0
        watch.count_if_sampled(answered(np.array([[feature, 7]], np.float32), [score]))
    found = live_drift([memory], {"search": of}, window_s=3600)
    return {"page": found, **{column.name: column for column in found["search"].columns()}}


def test_effects_are_small_without_drift_and_large_with_it() -> None:
    rng = np.random.default_rng(3)
    calm = drift_of(np.where(rng.random(2000) < 0.01, np.nan, rng.random(2000)), rng.random(2000))
    assert calm["price"].distance.psi < 0.02
    assert calm["score"].distance.psi < 0.02
    assert calm["price"].null_ratio == pytest.approx(0.01, abs=0.01)
    moved = drift_of(rng.random(2000) ** 3 - 0.05, rng.random(2000) / 2)
    assert moved["price"].distance.psi > 0.25
    assert moved["price"].out_of_range > 0.2
    assert moved["score"].distance.psi > 0.25
    assert moved["flag"].distance.psi == 0


def test_too_few_requests_have_no_effect_and_promtool_accepts_the_page() -> None:
    rng = np.random.default_rng(4)
    for requests, has_effect in ((LEAST_REQUESTS - 1, False), (LEAST_REQUESTS, True)):
        page = MetricsPage()
        add_drift(page, drift_of(rng.random(requests), rng.random(requests))["page"])
        assert ('forecache_drift_psi{column="price",model="search"}' in page.text()) == has_effect
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=page.text().encode(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
