"""What model processes share with the reader, whether they batch, the breaker in front of them, and their counters."""

import os
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecache.kit.process.wakes import HUNG_MODELS
from forecache.realtime.metrics import CAUSES, PATH_CELLS, PathCounters
from forecache.realtime.request.request_answer import LookupResult, ParsedRequest
from forecache.realtime.workers.model_main import is_row_independent
from forecache.realtime.workers.slot_memory import (
    BEGUN_NS,
    TEXT,
    SlotLayout,
    SlotMemory,
    WorkerConfig,
    check_scores,
    create_memory,
)
from forecache.realtime.workers.worker_path import PROBE_S, CircuitBreaker, ModelProcessPool, update_mean
from forecache.realtime.workers.worker_supervisor import HANG_S, ModelCall, SupervisorConfig, Worker

LAYOUT = SlotLayout(
    3, 4096, 20,
    {"household": "int64", "price": "float64", "name": TEXT, "at": "datetime64[us]", "day": "datetime64[D]",
     "new": "bool"},
    {"household": 3, "product": 2},
)  # fmt: skip


@pytest.fixture
def memory() -> SlotMemory:
    descriptor = create_memory(LAYOUT)
    try:
        return SlotMemory(descriptor, LAYOUT)
    finally:
        os.close(descriptor)


def found(rows: int, random: np.random.Generator) -> LookupResult:
    """Of the household [1], of the products [rows]."""
    return LookupResult(
        {
            "household": random.normal(size=(1, 3)).astype(np.float32),
            "product": random.normal(size=(rows, 2)).astype(np.float32),
        },
        {"household": np.array([False]), "product": random.random(rows) < 0.5},
    )


@given(
    names=st.lists(st.text(max_size=12) | st.just("a\0b") | st.just("\ud800"), min_size=1, max_size=20),
    household=st.integers(-(2**63), 2**63 - 1),
    price=st.floats(width=64),
    seed=st.integers(0, 9),
)
def test_a_request_is_read_as_it_was_written_to_the_bit(
    names: list[str], household: int, price: float, seed: int
) -> None:
    rows = len(names)
    columns = {
        "household": np.array([household]),
        "price": np.array([price] * rows),
        "name": np.array(names, object),
        "at": np.array(["2026-11-26T21:00:00.000001"], "datetime64[us]"),
        "day": np.array(["NaT"] * rows, "datetime64[D]"),
        "new": np.arange(rows) % 2 == 0,
    }
    looked_up = found(rows, np.random.default_rng(seed))
    looked_up.views["product"][0] = np.nan
    descriptor = create_memory(LAYOUT)
    writer, reader = SlotMemory(descriptor, LAYOUT), SlotMemory(descriptor, LAYOUT)
    os.close(descriptor)

    writer.write_request(1, ParsedRequest(rows, columns, names, b"{}"), looked_up, 7)
    read, read_found = reader.read_request(1)

    assert read.length == rows
    for name, column in columns.items():
        assert read.columns[name].dtype == column.dtype
        if column.dtype == object:
            assert read.columns[name].tolist() == column.tolist()
        else:
            assert read.columns[name].tobytes() == column.tobytes()
    for name, view in looked_up.views.items():
        assert read_found.views[name].shape == view.shape
        assert read_found.views[name].tobytes() == view.tobytes()
        assert read_found.known[name].tolist() == looked_up.known[name].tolist()
    every = (*read.columns.values(), *read_found.views.values(), *read_found.known.values())
    assert not any(array.flags.writeable for array in every)


def test_a_request_that_is_too_large_for_a_slot_is_refused_and_leaves_the_next_slot_alone(memory: SlotMemory) -> None:
    def asked(rows: int, text: str) -> ParsedRequest:
        columns = {
            "household": np.array([1]), "price": np.zeros(rows), "name": np.array([text] * rows, object),
            "at": np.zeros(rows, "datetime64[us]"), "day": np.zeros(rows, "datetime64[D]"), "new": np.zeros(rows, bool),
        }  # fmt: skip
        return ParsedRequest(rows, columns, [], b"")

    random = np.random.default_rng(0)
    memory.write_request(1, asked(20, "x"), found(20, random), 7)
    with pytest.raises(ValueError):
        memory.write_request(0, asked(21, "x"), found(21, random), 7)
    with pytest.raises(ValueError):
        memory.write_request(0, asked(20, "x" * 1000), found(20, random), 7)
    assert memory.read_request(1)[0].columns["name"].tolist() == ["x"] * 20


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_come_back_in_their_own_type(memory: SlotMemory, dtype: type) -> None:
    scores = np.array([0.1, -0.0, np.inf, 1e-30], dtype)
    memory.write_scores(2, scores)
    assert memory.read_scores(2).dtype == dtype
    assert memory.read_scores(2).tobytes() == scores.tobytes()


def test_memory_has_no_name_that_could_be_left_behind(memory: SlotMemory) -> None:
    assert not [name for name in os.listdir("/dev/shm") if "forecache" in name]


def test_scores_of_a_wrong_shape_are_refused() -> None:
    assert check_scores(np.zeros((3, 1), np.float32), 3).shape == (3,)
    assert check_scores(np.arange(3), 3).dtype == np.float64
    for wrong in (np.zeros((3, 2)), np.zeros(2), np.float64(1)):
        with pytest.raises(ValueError, match="for 3 rows"):
            check_scores(wrong, 3)


def test_rows_are_independent_where_a_row_decides_its_score_alone() -> None:
    parts = [np.random.default_rng(seed).normal(size=(5, 8)).astype(np.float32) for seed in range(3)]
    assert is_row_independent(lambda rows: (rows * np.float32(0.3)).sum(axis=1), parts)


@pytest.mark.parametrize(
    "predict",
    [
        lambda rows: rows[:, 0] - rows[:, 0].max(),
        lambda rows: rows[:, 0] * np.float32(1 + 1e-7 * (len(rows) > 60)),  # other code for many rows, by one bit
        lambda rows: rows[:, 0].astype(np.float64 if len(rows) > 60 else np.float32),
        lambda rows: rows[:1, 0],
    ],
    ids=["listwise", "one bit", "type", "one score"],
)
def test_rows_are_not_independent_where_other_rows_change_a_bit(predict: object) -> None:
    parts = [np.random.default_rng(seed).normal(size=(5, 8)).astype(np.float32) for seed in range(3)]
    assert not is_row_independent(predict, parts)


def test_without_recorded_requests_nothing_is_batched() -> None:
    assert not is_row_independent(lambda rows: rows[:, 0], [])


class TestBreaker:
    def test_opens_after_five_failures_in_a_row_and_lets_a_probe_through_now_and_then(self) -> None:
        breaker = CircuitBreaker()
        for _ in range(4):
            breaker.record_failure(1.0)
        assert not breaker.is_open
        breaker.record_failure(1.0)
        assert breaker.is_open
        assert not breaker.allow_request(1.0 + PROBE_S / 2)
        assert breaker.would_allow(1.0 + PROBE_S)
        assert breaker.allow_request(1.0 + PROBE_S)
        assert not breaker.allow_request(1.0 + PROBE_S * 1.5)  # the probe is on its way

    def test_closes_with_the_first_success(self) -> None:
        breaker = CircuitBreaker()
        for _ in range(5):
            breaker.record_failure(0.0)
        breaker.record_success()
        assert breaker.allow_request(0.0)
        breaker.record_failure(0.0)
        assert not breaker.is_open

    def test_stays_closed_where_few_of_many_fail(self) -> None:
        breaker = CircuitBreaker()
        for number in range(1000):
            if number % 5:
                breaker.record_success()
            else:
                breaker.record_failure(0.0)
        assert not breaker.is_open

    def test_a_probe_that_costs_a_process_is_followed_by_a_longer_pause(self) -> None:
        breaker = CircuitBreaker()
        for _ in range(5):
            breaker.record_failure(0.0)
        breaker.record_failure(1.0, pause_s=0.7)
        assert not breaker.would_allow(1.6)
        assert breaker.would_allow(1.71)


def test_a_process_hangs_if_it_is_silent_while_the_machine_does_not_stand_still(
    memory: SlotMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    loop: Any = SimpleNamespace(call_later=lambda *_: None)
    orders = WorkerConfig("", "", 0.005, LAYOUT)
    pool = ModelProcessPool(SupervisorConfig(2), orders, loop=loop, counters=PathCounters())
    process: Any = SimpleNamespace(memory=memory, channel=SimpleNamespace(fileno=lambda: 0))
    worker = Worker(process)
    pool.workers.append(worker)
    worker.calls[0] = cast("ModelCall", None)
    memory.head[BEGUN_NS] = int(now[0] * 1e9)
    lost: list[float] = []
    monkeypatch.setattr(pool, "_replace_worker", lambda *_: lost.append(now[0]))
    for now[0] in (100.05, 103.0):  # it stands still for seconds
        pool._replace_hung_workers()
    assert lost == []
    while not lost:
        now[0] += HUNG_MODELS.every_s
        pool._replace_hung_workers()
    assert 103.0 < lost[0] < 103.0 + HANG_S


def test_that_a_model_was_slow_is_forgotten_after_three_fast_calls_and_one_slow_call_does_not_count_for_much() -> None:
    mean = 0.2
    for _ in range(3):
        mean = update_mean(mean, 0.001)
    assert mean < 0.03
    mean = 0.001
    assert update_mean(mean, 0.02) < 0.002


def test_counters_count_in_the_cells_that_they_are_given() -> None:
    cells = [0] * len(PATH_CELLS)
    counters = PathCounters(cells)
    for cause in CAUSES:
        counters.count_replacement(cause)
    for requests in (1, 2, 3, 33):
        counters.count_batch(requests)
    counted = dict(zip(PATH_CELLS, cells, strict=True))
    assert all(counted[f"replaced_{cause}"] == 1 for cause in CAUSES)
    assert [counted[f"batches_{bound}"] for bound in (1, 2, 4, 8, "more")] == [1, 1, 1, 0, 1]
    assert counted["batched_requests"] == 39
