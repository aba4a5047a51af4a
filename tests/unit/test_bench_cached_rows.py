"""`make bench-realtime`, section cached: which requests it draws, what it compares, and what its table says."""

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

import ways  # noqa: E402  # the benchmarks are no package
from _realtime import report  # noqa: E402


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    yield from bench_sections(monkeypatch)


def test_requests_of_the_cache_repeat_by_zipfs_law(sections: Callable[[str], ModuleType]) -> None:
    numbers = sections("cached").drawn(1_000, 200_000, seed=1)
    counts = np.bincount(numbers, minlength=1_000)
    assert counts.sum() == 200_000
    assert counts[0] / counts[31] == pytest.approx(32**0.8, rel=0.15)
    assert counts[:100].sum() / counts[100:200].sum() == pytest.approx(
        (np.arange(1, 101) ** -0.8).sum() / (np.arange(101, 201) ** -0.8).sum(), rel=0.05
    )


def test_an_answer_of_the_cache_that_differs_is_counted(
    sections: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = sections("cached")
    hits = iter([{"hits": 10.0, "misses": 1.0}, {"hits": 13.0, "misses": 4.0}])
    monkeypatch.setattr(cached, "answers", lambda *_: next(hits))
    asked: list[tuple[str, int]] = []

    def ask(_: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
        asked.append((path, body["n"]))
        stale = path == "/v1/with" and body["n"] == 1 and asked.count((path, 1)) == 2
        return {"answered_by": "model", "items": [{"score": 0.25 if stale else 0.5}]}

    monkeypatch.setattr(cached.home, "ask", ask)

    class Expected:
        def fault_of(self, body: dict[str, Any], items: Any) -> str:
            return ""

    found = cached.compared(1, {"without": "plain", "with": "with"}, [{"n": n} for n in range(3)], Expected())
    assert found == {"answers": 6, "cached": 3, "wrong": 1}
    assert cached.hit_rate({"hits": 1.0, "misses": 1.0}, {"hits": 4.0, "misses": 2.0}) == 0.75
    assert cached.hit_rate({"hits": 1.0, "misses": 1.0}, {"hits": 1.0, "misses": 1.0}) is None


def cached_section(wrong: int = 0) -> dict[str, Any]:
    run = {"p50_ms": 0.2, "p99_ms": 3.0, "p999_ms": 6.0, "failed": 0}
    model = {
        "without": [{**run, "cpu_us": 360.0, "hit_rate": None}],
        "with": [{**run, "cpu_us": 144.0, "hit_rate": 0.6}],
        "compared": {"answers": 800, "cached": 500, "wrong": wrong},
    }
    machine = {
        "commit": "a", "dirty": False, "at": "2026-11-27T11:18:00+00:00", "processor": "x", "cores": 2,
        "busy_share": 0.0, "load": [0.1], "load_average": 0.1,
    }  # fmt: skip
    return {
        "rate": 1_000.0, "distinct": 100_000, "exponent": 0.8, "models": {"network": model, "trees": {**model}},
        "machine": machine, "size": "full",
    }  # fmt: skip


def test_the_cache_is_beside_the_same_model_without_and_a_wrong_answer_is_missed() -> None:
    rows = report.rows_of("cached", cached_section())
    assert row_of(rows, "trees cpu_us").ratio == 2.5
    assert all(row.met is not False for row in rows)
    assert [row.ours.median for row in rows if row.unit == "%"] == [60.0, 60.0]
    missed = [row for row in report.rows_of("cached", cached_section(wrong=1)) if row.met is False]
    assert len(missed) == 2


def test_the_guide_has_a_row_of_each_cached_model() -> None:
    found: dict[str, dict[str, Any]] = {"scoring": {}, "store": {}, "stream": {}, "realtime": {}}
    assert ways.table(found).count("not measured here") == 2
    table = ways.table({**found, "realtime": {"cached": cached_section()}})
    row = next(line for line in table.splitlines() if "a network, cached" in line)
    assert "60% from the cache (without it 0.1 core-hours)" in row
    assert "| 0.20 | 3 | 0.04 |" in row
