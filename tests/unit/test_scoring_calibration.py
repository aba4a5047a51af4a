"""A sweep finds the fastest batch within its time; the memory bounds it; a plan is what comparable nights took."""

from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from forecache.base.settings import load_settings
from forecache.lake.ledger import StageRecord
from forecache.scoring.batch_size import fastest_size, sweep
from forecache.scoring.cost_estimate import RunFigures, combine_figures, format_plan, memory_warnings, predict

NIGHT = date(2024, 6, 30)


class Machine:
    """A clock, and a model that takes a fixed time a call and a time a row."""

    def __init__(self, *, call_s: float, row_s: float, slow_above: int = 1 << 30) -> None:
        self.call_s, self.row_s, self.slow_above, self.now = call_s, row_s, slow_above, 0.0
        self.calls: list[tuple[int, int]] = []

    def clock(self) -> float:
        return self.now

    def score(self, size: int, rows: int) -> None:
        assert rows % size == 0
        self.calls.append((size, rows))
        self.now += rows // size * self.call_s + rows * self.row_s * (3 if size > self.slow_above else 1)


def swept(machine: Machine, sizes: list[int], **given: Any) -> dict[int, float]:
    return sweep(machine.score, sizes, clock=machine.clock, **{"sample_rows": 65_536, "budget_s": 1.0, **given})


def test_the_smallest_batch_that_is_next_to_the_fastest_wins() -> None:
    machine = Machine(call_s=1e-3, row_s=1e-6)
    rates = swept(machine, [1024, 4096, 16_384, 65_536])
    assert rates[1024] == pytest.approx(1024 / (1e-3 + 1024e-6))
    assert fastest_size(rates) == 65_536
    assert fastest_size(swept(Machine(call_s=1e-5, row_s=1e-6), [1024, 4096, 16_384, 65_536])) == 1024
    assert fastest_size(swept(Machine(call_s=1e-3, row_s=1e-6, slow_above=20_000), [1024, 16_384, 65_536])) == 16_384


@pytest.mark.parametrize("row_s", [1e-7, 1e-6, 1e-5, 1e-4])
def test_a_sweep_ends_within_its_budget(row_s: float) -> None:
    machine = Machine(call_s=1e-4, row_s=row_s)
    swept(machine, [1024, 4096, 16_384, 65_536])
    assert machine.now <= 1.5


def test_a_slow_model_is_measured_at_the_smallest_size_only() -> None:
    machine = Machine(call_s=0, row_s=2e-3)
    assert list(swept(machine, [1024, 4096, 16_384])) == [1024]
    assert machine.calls == [(1024, 1024)] * 2


def record(
    night: date, *, rows: int, seconds: float, cores: int = 2, engine: str = "spark", **details: Any
) -> StageRecord:
    run = {"rows": rows, "seconds": seconds, "cores": cores, "worker_bytes": 1000 * rows}
    details = {"engine": engine, "runtime": "onnx", "run": run, **details}
    at = datetime(night.year, night.month, night.day, tzinfo=timezone.utc)
    return StageRecord("score", "demo", night, "", "", 1, rows, seconds, details, recorded_at=at)


def before(*records: StageRecord) -> dict[date | None, StageRecord]:
    return {record.as_of: record for record in records}


def test_a_plan_is_the_median_of_comparable_nights_by_core() -> None:
    days = [NIGHT - timedelta(days=i) for i in range(6)]
    known = before(
        record(days[0], rows=1000, seconds=1.0),
        record(days[1], rows=2000, seconds=1.0),
        record(days[2], rows=4000, seconds=2.0, cores=4),
        record(days[3], rows=1_000_000, seconds=1.0),
        record(days[4], rows=1000, seconds=0.01, engine="arrow"),
        record(days[5], rows=1000, seconds=0.01, mode="incremental"),
    )
    plan = predict(known, rows=1000, cores=3, engine="spark", runtime="onnx", core_rate=1e9)
    assert plan is not None
    assert (plan.rows_per_second, plan.seconds) == (1500, pytest.approx(1000 / 1500))
    assert (plan.worker_bytes, plan.basis) == (4_000_000, "3 earlier nights")


def test_without_comparable_nights_the_calibration_is_taken_and_without_one_nothing() -> None:
    plan = predict({}, rows=1_000_000, cores=2, engine="arrow", runtime="onnx", core_rate=1e6)
    assert plan is not None
    assert (plan.seconds, plan.basis, plan.worker_bytes) == (pytest.approx(0.6), "calibration", None)
    assert predict({}, rows=1_000_000, cores=2, engine="arrow", runtime="onnx") is None


def test_parts_of_a_run_add_up_and_one_that_is_unknown_makes_the_whole_so() -> None:
    parts = [RunFigures(100, 2.0, 2, 7, "calibration"), RunFigures(300, 2.0, 4, None, "1 earlier night")]
    assert combine_figures(parts) == RunFigures(400, 4.0, 4, 7, "calibration, 1 earlier night")
    assert combine_figures([*parts, None]) is None
    assert combine_figures([]) is None


def test_figures_are_priced_by_the_core_hour() -> None:
    settings = load_settings(prices={"cpu": (0.36, 0.036), "H100": (3.0, 1.0)})
    figures = RunFigures(1_000_000, 50.0, 2, 600 << 20, "measured")
    told = figures.metadata(settings)
    assert (told["core_s"], told["price_on_demand"], told["price_spot"]) == pytest.approx((100, 0.01, 0.001))
    assert format_plan(figures, settings) == (
        "plan: 1,000,000 rows at about 20,000 a second on 2 cores: 50 s, 0.0278 core-hours, 0.01 on demand (measured)"
    )
    assert "price_spot" not in figures.metadata(load_settings())


@pytest.mark.parametrize(("megabytes", "warned"), [(600, False), (1500, True)])
def test_more_memory_than_the_settings_give_is_a_warning(megabytes: int, warned: bool) -> None:
    found = memory_warnings(RunFigures(1, 1.0, 1, megabytes << 20, "measured"), load_settings())
    assert bool(found) == warned
    if warned:
        assert "took 1500 MB, above FORECACHE_SCORING_WORKER_MEMORY_MB=1024" in found[0]


def test_time_left_and_rows_per_second_follow_the_rows() -> None:
    from forecache.scoring.tasks.job import progress_of

    assert progress_of((0, 4), (0, 1000), 0.5) == ("scoring 1,000 rows", None)
    assert progress_of((1, 4), (300, 1000), 3.0) == ("scoring 1,000 rows: 1 of 4 shards, 100 rows/s, 7 s left", 0.3)
    assert progress_of((1, 4), (1, 1000), 10.0)[0].endswith("166 min left")
