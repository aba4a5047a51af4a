"""`make bench-realtime`, section bento: what it compares, and what its table says."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bench_support import bench_sections, row_of

ROOT = Path(__file__).parents[2]
if str(ROOT / "benchmarks") not in sys.path:
    sys.path.append(str(ROOT / "benchmarks"))

import figures  # noqa: E402  # the benchmarks are no package
from _realtime import report  # noqa: E402
from _store.processes import BenchmarkError  # noqa: E402

SCORES = [0.75, 0.1]


@pytest.fixture
def bento(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for sections in bench_sections(monkeypatch):
        yield sections("bento")


def an_answer(scores: list[float], **others: Any) -> dict[str, Any]:
    items = [{"product_id": number, "score": score} for number, score in enumerate(scores)]
    stores = {"product": {"version": 3, "age_s": 1.0}}
    return {"items": items, "model": {"name": "network", "version": "1"}, "release": 2, "stores": stores, **others}


def asked(monkeypatch: pytest.MonkeyPatch, bento: ModuleType, answers: list[dict[str, Any]]) -> Callable[[], int]:
    """How many of these answers differ from those of the reader."""
    given = iter(answers)
    monkeypatch.setattr(bento.home, "ask", lambda *_: next(given))
    return lambda: bento.differing(1, "network", [{}] * len(answers), [an_answer(SCORES)] * len(answers))


def test_an_answer_differs_by_the_last_bit_of_a_score_or_by_the_order(
    bento: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_bit = [SCORES[0], float(np.nextafter(np.float32(SCORES[1]), np.float32(1)))]
    turned = an_answer(SCORES)
    turned["items"] = turned["items"][::-1]
    same = an_answer([float(np.float32(score)) for score in SCORES])  # the digits of float64, the bits of float32
    older = {"product": {"version": 3, "age_s": 9.0}}
    answers = [an_answer(SCORES), same, an_answer(SCORES, stores=older), an_answer(last_bit), turned]
    assert asked(monkeypatch, bento, answers)() == 2


@pytest.mark.parametrize("other", [{"release": 3}, {"stores": {"product": {"version": 4}}}, {"model": {"name": "x"}}])
def test_another_release_or_store_is_no_peer(
    bento: ModuleType, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    with pytest.raises(BenchmarkError, match="The service answers from"):
        asked(monkeypatch, bento, [an_answer(SCORES, **other)])()


def section(**service: Any) -> dict[str, Any]:
    low = {"p50_ms": 0.5, "p99_ms": 2.0, "cpu_us": 300.0, "failed": 0}
    slow = {"p50_ms": 2.0, "p99_ms": 4.0, "cpu_us": 1_500.0, "failed": 0}
    servers = {
        "Forecache": {"rate": 4_000.0, "p99_limit_ms": 5.0, "runs": [{}], "low": [low]},
        "BentoML service": {"rate": 400.0, "p99_limit_ms": 5.0, "runs": [{}], "low": [slow], **service},
    }
    return {"low_rate": 100.0, "in_loop": True, "servers": servers, "compared": {"answers": 400, "wrong": 0}}


def test_the_reader_is_beside_the_service() -> None:
    rows = report.rows_of("bento", section())
    assert [row_of(rows, key).ratio for key in ("rate", "p50_ms", "p99_ms", "cpu_us")] == [10.0, 4.0, 2.0, 5.0]
    assert row_of(rows, "rate").peer == "BentoML service"
    assert all(row.met is not False for row in rows)
    apart = report.rows_of("bento", {**section(), "in_loop": False})
    assert len(apart) == len(rows) + 1, "and it is said where the two do not run the model alike"


def test_a_service_that_is_slower_than_the_limit_says_which_it_keeps_to() -> None:
    row = row_of(report.rows_of("bento", section(p99_limit_ms=10.0)), "rate")
    assert row.peer == "BentoML service, at p99 under 10 ms"
    never = row_of(report.rows_of("bento", section(rate=0.0, runs=[], p99_limit_ms=50.0)), "rate")
    assert (never.peer, never.ratio) == ("BentoML service: at no rate a p99 under 50 ms", None)


def test_a_wrong_answer_and_a_failed_request_are_missed() -> None:
    wrong = {**section(), "compared": {"answers": 400, "wrong": 1}}
    assert row_of(report.rows_of("bento", wrong), "wrong").met is False
    found = section()
    found["servers"]["BentoML service"]["low"][0]["failed"] = 3
    assert [row.ours.median for row in report.rows_of("bento", found) if row.met is False] == [3.0]


def test_a_section_that_is_not_measured_stands_in_the_document() -> None:
    nothing: dict[str, Any] = dict.fromkeys(figures.BENCHMARKS, {})
    machine = {
        "commit": "a", "at": "2026-11-27T11:18:00+00:00", "processor": "x", "cores": 2, "busy_share": 0.0,
        "load_average": 0.1,
    }  # fmt: skip
    title = f"### bento: {report.SECTIONS['bento']}"
    other = {"size": "full", "machine": machine, "window_s": 1.0, "deadline_ms": 50, "kinds": {}}
    text = figures.tables({**nothing, "realtime": {"faults": other}})
    assert f"{title}\n\nNot measured.\n" in text
    text = figures.tables({**nothing, "realtime": {"bento": {**section(), "machine": machine, "size": "full"}}})
    assert f"{title}\n\nCommit a" in text
    assert "| BentoML service: 400 /s | 10 |" in text
