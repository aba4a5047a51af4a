"""`make bench-realtime`: what it computes from the records of a load, and that peers rank as the model does."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bench_support import bench_sections, row_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

from _realtime import best_rate, case, report  # noqa: E402
from _realtime.best_rate import Limits  # noqa: E402
from _realtime.load import BROKEN, NO_ANSWER, Load  # noqa: E402

MODEL, LOWER = '"model":50', '"order_given":50'


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    yield from bench_sections(monkeypatch)


def loaded(latency_ms: list[float], *, rate: float = 100.0, status: list[int] | None = None, classes: Any = 1) -> Load:
    """A run whose requests took so long, all of the class MODEL where none is given."""
    count = len(latency_ms)
    due = np.arange(count) / rate
    return Load(
        rate, due, due, due + np.array(latency_ms) / 1e3, np.array(status or [200] * count, np.int32),
        np.broadcast_to(np.asarray(classes, np.int32), count), ["", MODEL, LOWER],
        {"connections": 1, "cpu_seconds": 0.1, "problem": "", "start_ns": 0},
    )  # fmt: skip


def test_a_request_without_an_answer_is_failed_and_slower_than_all() -> None:
    found = loaded([1.0] * 97 + [2.0, 3.0, 4.0], status=[200] * 98 + [NO_ANSWER, BROKEN]).figures()
    assert found["failed"] == 2
    assert found["statuses"] == {"-1": 1, "0": 1, "200": 98}
    assert found["p50_ms"] == pytest.approx(1.0)
    assert found["p99_ms"] == found["max_ms"] == 1e9
    assert found["classes"] == {"": 0, MODEL: 100, LOWER: 0}


@pytest.mark.parametrize("capacity", [37.0, 300.0, 5_000.0])
def test_the_search_finds_the_highest_rate_that_keeps_to_the_limits(capacity: float) -> None:
    tried = []

    def run(rate: float) -> dict[str, Any]:
        tried.append(rate)
        late = rate > capacity
        return {"failed": 0, "p99_ms": 9.0 if late else 2.0, "p999_ms": 9.0}

    found = best_rate.search(run, Limits(5.0, 15.0), first=300.0)
    assert capacity / 1.07 < found <= capacity
    assert len(tried) < 24
    runs = best_rate.measured(run, Limits(5.0, 15.0), capacity * 1.08, 3)
    assert len(runs) == 3
    assert all(each["p99_ms"] == 2.0 for each in runs)


def test_one_disturbed_run_lowers_no_rate() -> None:
    seen: set[float] = set()

    def run(rate: float) -> dict[str, Any]:
        disturbed = rate not in seen
        seen.add(rate)
        return {"failed": 0, "p99_ms": 9.0 if disturbed or rate > 1000.0 else 2.0}

    assert 1000.0 / 1.07 < best_rate.search(run, Limits(5.0), first=300.0) <= 1000.0
    assert best_rate.search(run, Limits(5.0), first=299.0, tries=1) < 300.0


def test_a_rate_that_most_runs_cannot_hold_any_more_is_left_at_once() -> None:
    rates = []

    def run(rate: float) -> dict[str, Any]:
        rates.append(round(rate))
        slow = rate > 990.0 or rates.count(round(rate)) == 2  # at the rate that holds, the second run is disturbed
        return {"failed": 0, "p99_ms": 9.0 if slow else 2.0}

    runs = best_rate.measured(run, Limits(5.0), 1_000.0, 3)
    assert rates == [1_000, 1_000, 950, 950, 950]
    assert [each["p99_ms"] for each in runs] == [2.0, 9.0, 2.0]
    assert best_rate.measured(lambda _: {"failed": 1, "p99_ms": 1.0}, Limits(5.0), 1_000.0, 3) == []


def test_a_server_that_is_slow_at_every_rate_or_fails_has_none() -> None:
    assert best_rate.search(lambda _: {"failed": 0, "p99_ms": 9.0, "p999_ms": 9.0}, Limits(5.0), first=300.0) == 0.0
    assert best_rate.search(lambda _: {"failed": 1, "p99_ms": 1.0, "p999_ms": 1.0}, Limits(5.0), first=300.0) == 0.0
    assert not Limits(5.0, 15.0).met_by({"failed": 0, "p99_ms": 1.0, "p999_ms": 16.0})
    assert Limits(5.0).met_by({"failed": 0, "p99_ms": 5.0, "p999_ms": 99.0})
    assert not Limits(5.0).met_by({"failed": 0, "p99_ms": 1.0, "p999_ms": 1.0, "lower_share": 0.002})
    assert Limits(5.0, 15.0).times(2) == Limits(10.0, 30.0)


def test_the_fallbacks_of_an_overloaded_run_are_counted_by_items(sections: Callable[[str], ModuleType]) -> None:
    overload = sections("overload")
    assert overload.counts_of('"model":40,"order_given":10') == {"model": 40, "order_given": 10}
    found = overload.shares(loaded([1.0, 60.0, 1.0, 1.0], classes=[1, 1, 2, 1]), seconds=2.0)
    assert found == {"late": 1, "model_per_s": 1.0, "answered_by": {"model": 0.75, "order_given": 0.25}}
    assert overload.late(loaded([1.0, 60.0, 70.0], status=[200, 200, 503])) == 1


def test_the_time_until_the_model_is_back_counts_from_the_end_of_its_fault(
    sections: Callable[[str], ModuleType],
) -> None:
    recovery = sections("faults").recovery
    classes = np.where((np.arange(300) >= 100) & (np.arange(300) < 230), 2, 1)
    found = recovery(loaded([1.0] * 300, classes=classes), 1.0, 2.0)
    assert found["back_s"] == pytest.approx(0.3)
    assert found["model_share"] == {"before": 1.0, "during": 0.0, "after": pytest.approx(0.7)}
    healed = recovery(
        loaded([1.0] * 300, classes=np.where((np.arange(300) >= 100) & (np.arange(300) < 140), 2, 1)), 1, 2
    )
    assert healed["back_s"] == 0.0
    assert recovery(loaded([1.0] * 300), 1.0, 2.0)["back_s"] == 0.0
    never = recovery(loaded([1.0] * 300, classes=np.where(np.arange(300) >= 100, 2, 1)), 1.0, 2.0)
    assert not never["is_back"]
    assert never["back_s"] == pytest.approx(0.99)
    late = recovery(loaded([1.0] * 299 + [51.0]), 1.0, 2.0)
    assert late["over_deadline"] == 1


@pytest.mark.parametrize("model", case.MODELS)
def test_a_peers_ranking_is_that_of_the_model(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case.write_models(tmp_path, [model], rows=2_000)
    for name, value in {"BENCH_MODEL": model, "BENCH_MODELS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(BENCHMARKS / "_realtime" / "peers"))
    ranking = importlib.import_module("ranking")
    try:
        (body,) = case.bodies(1, 500, seed=3)
        assert ranking.keys_of(7, [8, 9]) == [b"h:7", b"p:8", b"p:9"]
        mine = case.features_of(case.HOUSEHOLD, np.array([body["household_id"]]), 8)
        theirs = case.features_of(case.PRODUCT, np.array(body["candidates"]), 24)
        values = [mine.tobytes(), *(row.tobytes() for row in theirs)]
        items = ranking.ranked(body["candidates"], ranking.load_model()(ranking.matrix_of(values)))["items"]
    finally:
        del sys.modules["ranking"]
    expected = case.Expected(tmp_path, model)
    assert expected.fault_of(body, items) == ""
    assert "order" in expected.fault_of(body, items[::-1])
    assert "candidates" in expected.fault_of(body, items[1:])
    wrong = [{**items[0], "score": items[0]["score"] + 1.0}, *items[1:]]
    assert "should have the score" in expected.fault_of(body, wrong)


def test_features_differ_by_key_column_and_publish() -> None:
    ids = np.arange(1_000)
    first, other = (case.features_of(case.PRODUCT, ids, 24, stamp) for stamp in (0, 1))
    assert first.dtype == np.float32
    assert ((first >= 0) & (first < 1)).all()
    assert len(np.unique(first)) > 0.99 * first.size
    assert (first != other).mean() > 0.99
    assert np.array_equal(first[7], case.features_of(case.PRODUCT, np.array([7]), 24)[0])


def rate_section() -> dict[str, Any]:
    run = {"p50_ms": 0.3, "p99_ms": 2.0, "p999_ms": 4.0, "lower_share": 0.0}
    servers = {
        best_rate.OURS: {"rate": 4_000.0, "runs": [run, run, run], "timings_ms": {"parse": [0.01, 0.02, 0.03]}},
        "FastAPI": {"rate": 800.0, "runs": [run], "p99_limit_ms": 5.0},
        "KServe": {"rate": 400.0, "runs": [run], "p99_limit_ms": 5.0},
        "Slow": {"rate": 100.0, "runs": [run], "p99_limit_ms": 25.0},
        "Slowest": {"rate": 0.0, "runs": [], "p99_limit_ms": 50.0},
    }
    return {"servers": servers, "ceiling": [{"rate": 30_000.0, "p99_ms": 0.2}]}


def test_the_table_asks_eight_times_of_the_best_peer_alone_and_says_what_is_missed() -> None:
    rows = report.rows_of("network", rate_section())
    assert rows[0].met
    assert rows[0].asked_text == ">= 3,000 /s"
    best = row_of(rows, "FastAPI")
    assert best.ratio == 5.0
    assert not best.met
    assert "missed" in best.asked_text
    assert row_of(rows, "KServe").asked is None
    assert row_of(rows, "Slow").peer == "Slow, at p99 under 25 ms"
    assert any(row.peer == "Slowest: at no rate a p99 under 50 ms" for row in rows)


def test_plain_reads_are_compared_pair_by_pair() -> None:
    def run(rate: float, cpu_us: float) -> dict[str, float]:
        return {"requests_per_s": rate, "cpu_us": cpu_us, "p99_ms": 1.0}

    sides = {"before": [run(100.0, 10.0), run(50.0, 10.0)], "after": [run(98.0, 10.2), run(49.0, 10.8)]}
    rate, cpu, _ = report.rows_of("plain", {"sides": sides, "before_commit": "a"})
    assert rate.ratio == pytest.approx(0.98)
    assert rate.met
    assert cpu.ratio == pytest.approx(1.05)
    assert not cpu.met
