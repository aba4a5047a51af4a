"""The real-time models' part of the status: what is counted by its name, and what needs attention."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from status_documents import model_row

from forecache.base.settings import load_settings
from forecache.plugins.status.history import HISTORY_BYTES, MORE_CELLS, History, ModelCounts, ReaderTraffic
from forecache.plugins.status.model_rows import _NAMES, attention_of, request_counts_of, status_part
from forecache.realtime.metrics import CANDIDATE, CELL, MAX_MODELS, RealtimeMetrics
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.worker_metrics import EXTENSION_BYTES, SLOT_BYTES, WorkerMetrics


@pytest.fixture
def runtime() -> Iterator[ReaderSharedMemory]:
    runtime = ReaderSharedMemory.create(num_slots=2, slot_bytes=SLOT_BYTES, history_bytes=HISTORY_BYTES)
    yield runtime
    runtime.remove()


def said(**more: Any) -> list[tuple[str, str]]:
    return [(each.severity, each.what) for each in attention_of(model_row(**more))]


def test_the_counters_of_a_model_fit_into_the_history() -> None:
    assert len(_NAMES) <= MORE_CELLS


def test_counters_of_all_workers_come_back_by_their_names(runtime: ReaderSharedMemory, tmp_path: Path) -> None:
    history = History(runtime.history)
    workers = [WorkerMetrics.claim(runtime) for _ in range(2)]
    none = ReaderTraffic(0, 0, 0, [0] * 24)
    history.add_sample(1000.0, none, {}, {"search": ModelCounts([0] * 24, [])}, clock_s=0.0)
    for worker in workers:
        worker.record_heartbeat()
        block = RealtimeMetrics(worker.extension).cells_of_model("search")
        block.observe(300_000)
        for name, number in (
            ("answered_by_model", 9),
            ("reason_deadline", 1),
            ("stage_model", 200_000),
            ("in_time", 1),
            ("late", 2),
        ):
            block.cells[CELL[name]] += number
        block.cells[CELL["live"]], block.cells[CELL["release"]] = 1, 3
        block.path_counters.add("cache_hits", 3)
        block.path_counters.add("cache_misses", 1)
    history.add_sample(1002.0, none, {}, request_counts_of(runtime), clock_s=2.0)
    models: Any = SimpleNamespace(known=frozenset({"search"}), served={}, failures={})
    found, troubles = status_part(models, runtime, history, load_settings(home=tmp_path))
    (row,) = found["models"]
    assert (row["answered_by_counts"], row["fallback_reasons"], row["in_time"], row["late"]) == (
        {"model": 18},
        {"deadline": 2},
        2,
        4,
    )
    assert (row["answers"], row["per_s"], row["cache_hit_share"], row["releases"]) == (2, 1.0, 0.75, [3])
    assert row["stages_us"]["model"] == 200.0
    assert row["state"] == "loading"
    assert troubles == []


def test_a_model_that_is_well_needs_no_attention() -> None:
    assert said() == []
    assert said(answers=50, late=50, fallback_reasons={"deadline": 50}) == []  # too few to judge


def test_what_is_wrong_with_a_model_is_said() -> None:
    assert said(state="failed", release=None, log=None)[0][0] == "critical"
    assert said(state="earlier")[0] == (
        "warning", "The current release of search cannot be served; release 3 answers instead.",
    )  # fmt: skip
    assert "do not ask it" in said(breaker_open=2)[0][1]
    assert said(late=20) == [("warning", "2.0 % of the answers of search were late in the last 5 min.")]
    assert said(fallback_reasons={"deadline": 20, "worker_lost": 80})[0][1] == (
        "10.0 % of the answers of search came without the model, mostly: worker lost."
    )
    log = model_row()["log"] | {"failing_s": 90.0}
    assert said(log=log) == [("warning", "The request log of search has not been committed for 1 min.")]


def test_a_column_that_has_moved_is_said() -> None:
    moved = {"psi": 0.4, "null_share": 0.0, "out_of_range_share": 0.1}
    row = model_row() | {"drift": [{"column": "price", **moved}, {"column": "spend", **moved, "psi": 0.2}]}
    [found] = attention_of(row)
    assert "price (PSI 0.40)" in found.what
    assert "spend" not in found.what


def test_a_candidate_whose_name_is_too_long_counts_with_its_model_and_damages_no_other() -> None:
    metrics = RealtimeMetrics(memoryview(bytearray(EXTENSION_BYTES)))
    long, other = "m" * 63, "search"
    metrics.cells_of_model(long)
    for _ in range(2):
        metrics.cells_of_candidate(long).cells[CELL["answers"]] += 1
    metrics.cells_of_model(other).cells[CELL["answers"]] += 5
    metrics.cells_of_candidate(other).cells[CELL["answers"]] += 7
    found = {name: block.cells[CELL["answers"]] for name, block in metrics.models()}
    assert found == {long: 2, other: 5, f"{other}{CANDIDATE}": 7}


def test_the_last_block_is_used_and_one_model_more_is_refused() -> None:
    metrics = RealtimeMetrics(memoryview(bytearray(EXTENSION_BYTES)))
    for number in range(MAX_MODELS):
        metrics.cells_of_model(f"model_{number}").cells[CELL["answers"]] = number
    with pytest.raises(LookupError, match=f"at most {MAX_MODELS} real-time models"):
        metrics.cells_of_model("one_more")
    metrics.cells_of_candidate("model_0").cells[CELL["answers"]] += 3
    assert [block.cells[CELL["answers"]] for _, block in metrics.models()] == [3, *range(1, MAX_MODELS)]
