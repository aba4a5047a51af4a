"""What running streams cost: what their engines say, and nothing invented where they say nothing."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cost_support import PRICES, written

from forecache.base.settings import Settings, load_settings
from forecache.plugins.cost.cost_report import cost_report, report_to_dict, use_of_streams
from forecache.stream.engine.engine import StreamFigures
from forecache.stream.state import StreamState, read_state, write_state

STREAM = "fraud"
STARTED = 1_700_000_000.0


@pytest.fixture
def priced(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", prices=PRICES, reader_replicas=3)


@pytest.fixture
def declared(priced: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A project with one stream, of which the cost needs the name alone."""
    from types import SimpleNamespace

    from forecache.plugins.cost import cost_report as module

    project = SimpleNamespace(streams={STREAM: SimpleNamespace(name=STREAM, engine="arrow")})
    monkeypatch.setattr(module, "read_project", lambda settings: project)
    return priced


def running(cpu_s: float | None = 1_800.0) -> StreamState:
    """A stream that took half an hour of the processor in two hours, for two million events."""
    return StreamState(
        pid=1, started_at=STARTED, written_at=STARTED + 7_200, engine="arrow", rows=2_000_000, cpu_s=cpu_s
    )


def test_a_day_of_a_stream_is_what_its_process_took_since_its_start(declared: Settings) -> None:
    write_state(declared.home_path, STREAM, running())
    [use] = use_of_streams(declared, at=STARTED + 7_201)
    assert use.core_hours_per_million == pytest.approx(0.25)
    assert use.price_per_million(declared) == pytest.approx(0.25 * 0.04)
    assert use.price_per_million(declared.model_copy(update={"prices": {}})) is None
    write_state(declared.home_path, STREAM, replace(running(), started_at=time.time() - 7_200, written_at=time.time()))
    written(declared)
    report = cost_report(declared, days=7, cores=2)
    made = report_to_dict(report)
    [line] = [line for line in made["lines"] if line["part"] == "streams"]
    assert (line["subject"], line["what"], line["basis"]) == (STREAM, "engine arrow", "measured for 2 h")
    assert line["amount"] == pytest.approx(6.0, rel=1e-3)
    assert made["price_by_part"]["streams"] == pytest.approx(6 * 0.04, rel=1e-3)
    assert made["price_per_million_events_of"] == {STREAM: pytest.approx(0.01, rel=1e-3)}
    assert made["not_known"] == []


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (None, "it does not run"),
        (replace(running(), stopped_at=STARTED + 7_200), "it does not run"),
        (replace(running(), written_at=STARTED + 3_600), "it does not run"),
        (running(cpu_s=None), "its process does not say it"),
        (replace(running(), started_at=STARTED + 7_150), "its process was started less than a minute ago"),
    ],
)
def test_a_stream_that_says_nothing_is_not_known_and_not_zero(
    declared: Settings, state: StreamState | None, why: str
) -> None:
    if state is not None:
        write_state(declared.home_path, STREAM, state)
    [use] = use_of_streams(declared, at=STARTED + 7_201)
    assert use.core_s is None
    assert use.core_hours_per_million is None
    assert use.why == f"What the stream {STREAM} takes is not known: {why}."
    written(declared)
    report = cost_report(declared, days=7, cores=2)
    assert not [line for line in report.lines if line.part == "streams"]
    assert report_to_dict(report)["price_per_million_events_of"] == {STREAM: None}
    assert any(STREAM in sentence for sentence in report.not_known)


def test_a_stream_without_events_has_a_day_and_no_price_of_a_million(declared: Settings) -> None:
    write_state(declared.home_path, STREAM, replace(running(), rows=0))
    [use] = use_of_streams(declared, at=STARTED + 7_201)
    assert (use.core_s, use.core_hours_per_million) == (1_800.0, None)


def test_an_engine_says_what_its_process_has_taken(tmp_path: Path) -> None:
    before_s = sum(os.times()[:2])  # what the process took before is not the engine's
    figures = StreamFigures(tmp_path, STREAM, engine="arrow", freshness="event")
    figures.write(now=True)
    first = read_state(load_settings(home=tmp_path), STREAM)
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    least_s = sum(os.times()[:2])
    figures.write(now=True)
    second = read_state(load_settings(home=tmp_path), STREAM)
    assert first is not None
    assert second is not None
    assert first.cpu_s is not None
    assert second.cpu_s is not None
    assert second.cpu_s - first.cpu_s >= 0.03
    most_s = sum(os.times()[:2]) - before_s
    assert least_s - before_s - 0.05 <= second.cpu_s <= most_s + 0.05
