"""The cost of a run from its events: what was paid, what was wasted, what spot saves; and advice from its usage."""

import pytest

from assets.views import training_view
from forecache.base.results import StageResult
from forecache.models.training.launch import CostRecord, cost_record, price_of_run, sizing_advice

GIB = 1 << 30


def start(launched_at: float, time: float, step: int = 0, reached: int = 0, alive_at: float = 0.0) -> dict[str, object]:
    return {
        "event": "start",
        "launched_at": launched_at,
        "time": time,
        "step": step,
        "reached_step": reached,
        "alive_at": alive_at,
        "workers": 2,
    }


def checkpoint(time: float, step: int) -> dict[str, object]:
    return {"event": "checkpoint", "time": time, "step": step}


def test_a_run_without_interruption_wastes_nothing() -> None:
    events = [start(100, 104), checkpoint(110, 50), {"event": "done", "time": 120}]
    assert cost_record(events) == CostRecord(1, 40.0, 0.0, 0)


def test_a_kill_wastes_the_steps_since_the_checkpoint_and_the_second_start() -> None:
    events = [
        start(100, 104),
        checkpoint(110, 50),
        # Killed at 115 after step 70; the machine came back at 200.
        start(200, 205, step=50, reached=70, alive_at=115),
        {"event": "done", "time": 215},
    ]
    assert cost_record(events) == CostRecord(2, 2 * (15 + 15), 2 * (5 + 5), 20)


def test_a_kill_before_the_first_checkpoint_wastes_all_steps_of_the_attempt() -> None:
    events = [start(100, 104), start(120, 124, step=0, reached=9, alive_at=110), {"event": "done", "time": 130}]
    assert cost_record(events) == CostRecord(2, 2 * (10 + 10), 2 * (6 + 4), 9)


def test_workers_that_are_replaced_by_the_same_agent_are_counted_once() -> None:
    events = [start(100, 104), start(100, 113, step=0, reached=9, alive_at=110), {"event": "done", "time": 120}]
    assert cost_record(events) == CostRecord(2, 2 * (10 + 10), 2 * (6 + 3), 9)


def test_spot_saves_what_its_price_leaves_after_waste() -> None:
    values = price_of_run(
        CostRecord(2, 7200.0, 720.0, 20), "NVIDIA H100 80GB HBM3", {"nvidia": (9, 9), "H100 80GB": (3, 1)}
    )
    assert values["price_spot"] == pytest.approx(2.0)
    assert values["price_on_demand"] == pytest.approx(5.4)
    assert values["saving"] == pytest.approx(1 - 2.0 / 5.4)


def test_a_device_without_a_price_has_none() -> None:
    assert price_of_run(CostRecord(1, 1.0, 0.0, 0), "cpu", {"H100": (3.0, 1.0)}) == {}


def usage(**changed: float) -> dict[str, object]:
    values = {
        "peak_memory_bytes": 2 * GIB,
        "stall_share": 0.02,
        "cpu_share": 0.9,
        "peak_device_memory_bytes": 0,
        "device_memory_bytes": 0,
    }
    return {"device": "cpu", "device_name": "cpu", "usage": {**values, **changed}}


def test_a_busy_worker_is_only_told_its_memory() -> None:
    assert sizing_advice(usage()) == ["A worker used at most 2.0 GiB of memory; 2.8 GiB per worker is enough."]


def test_a_worker_that_waits_for_data_is_told_to_read_faster_and_not_to_shrink() -> None:
    said = sizing_advice(usage(stall_share=0.4, cpu_share=0.3))
    assert len(said) == 2
    assert "waited for data 40% of the time" in said[1]


def test_idle_threads_and_unused_device_memory_are_named() -> None:
    assert "busy 30% of the time" in sizing_advice(usage(cpu_share=0.3))[1]
    gpu = {**usage(peak_device_memory_bytes=8 * GIB, device_memory_bytes=80 * GIB), "device": "cuda"}
    assert "10% of the memory of" in sizing_advice(gpu)[1]


def test_cost_prices_and_advice_are_shown_with_the_candidate() -> None:
    cost = CostRecord(2, 7200.0, 720.0, 20)
    details = {
        "history": [],
        "cost": {**vars(cost), **price_of_run(cost, "H100", {"H100": (3, 1)})},
        "advice": sizing_advice(usage(cpu_share=0.3)),
    }
    shown = training_view(StageResult("train", "churn", 1, 1.0, details=details))
    assert (shown["device_s"], shown["wasted_s"]) == (7200.0, 720.0)
    assert "| saved by spot | 63% |" in shown["cost"].value
    assert shown["advice"].value.count("\n- ") == 1
    unpriced = training_view(StageResult("train", "churn", 1, 1.0, details={**details, "cost": vars(cost)}))
    assert "spot" not in unpriced["cost"].value
