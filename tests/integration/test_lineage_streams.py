"""OpenLineage events of a running stream: valid, periodic, of one run with one end, and never in the stream's way."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alert_receivers import Posted, Receiver, receiver
from lineage_sample import events_in, with_file
from openlineage_valid import as_client_has_it, require_valid
from stream_jobs import settings_of
from stream_sample import CUSTOMER, a_stream, payment, release
from waiting import wait_for

from forecache.base.settings import Settings, load_settings
from forecache.declare import LiveRows, Table, ToTopic
from forecache.plugins.lineage.stream_runs import report_run
from forecache.stream.engine.arrow_engine import ArrowEngine
from forecache.stream.state import StreamState

STREAM = a_stream("card-payments", to=(Table(), LiveRows(), ToTopic("answers")))
ENDS = ("COMPLETE", "FAIL", "ABORT")


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def told_in_file(settings: Settings, tmp_path: Path) -> Settings:
    return with_file(settings, tmp_path).model_copy(
        update={"kafka_brokers": "broker-1:9092,broker-2:9092", "openlineage_stream_every_s": 1}
    )


def a_state(**more: Any) -> StreamState:
    return StreamState(started_at=time.time(), engine="arrow", **more)


def kinds(settings: Settings) -> list[str]:
    return [event["eventType"] for event in events_in(settings)] if Path(settings.openlineage_file).exists() else []


def notes(settings: Settings) -> list[Path]:
    """Of the runs of which a receiver does not know the end."""
    return list(Path(settings.lake_uri, ".state", "lineage", "streams", "payments").glob("*.json"))


def named(datasets: list[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    versions = [each["facets"].get("version", {}).get("datasetVersion") for each in datasets]
    short = [each["name"].partition("/home/")[2] or each["name"] for each in datasets]
    return [(each["namespace"], name, of) for each, name, of in zip(datasets, short, versions, strict=True)]


def test_a_run_has_a_start_an_event_for_each_interval_and_one_end(told_in_file: Settings) -> None:
    state = a_state()
    with report_run(told_in_file, STREAM, state):
        wait_for(lambda: kinds(told_in_file)[1:2] == ["RUNNING"])
        state.rows, state.committed_version, state.offsets = 30, 4, {"0": 31}
        wait_for(lambda: named(events_in(told_in_file)[-1]["outputs"])[0][2] == "4")
        state.rows, state.committed_version = 35, 6
    events = events_in(told_in_file)
    told_kinds = [event["eventType"] for event in events]
    assert told_kinds == ["START", *["RUNNING"] * (len(events) - 2), "COMPLETE"]
    assert len(events) >= 4
    assert len({event["run"]["runId"] for event in events}) == 1
    for event in events:
        require_valid(event)
        assert as_client_has_it(event)["job"]["facets"]["jobType"]["processingType"] == "STREAMING"
        assert event["job"]["name"] == "stream.payments"
        assert named(event["inputs"]) == [
            ("kafka://broker-1:9092", "card-payments", None), ("file", "lake/features_customer", None)
        ]  # fmt: skip
        assert named(event["outputs"])[1:] == [
            ("file", "store/customer/live", None),
            ("file", "store/payments/live", None),
            ("kafka://broker-1:9092", "answers", None),
        ]  # fmt: skip
        assert all(each["facets"]["schema"]["fields"] for each in [event["inputs"][0], *event["outputs"]])
    tables = [event["outputs"][0] for event in events]
    versions = [version for (_, _, version) in named(tables)]
    assert list(dict.fromkeys(versions)) == [None, "4", "6"]
    rows = [each["outputFacets"]["outputStatistics"]["rowCount"] for each in tables[1:]]
    assert (sum(rows), rows[-1]) == (35, 5), "each event has the rows since the one before"
    assert events[versions.index("4")]["run"]["facets"]["forecache_stream"]["offsets"] == {"0": 31}
    emission = events[0]["job"]["facets"]["jobType"]["emissionPattern"]
    assert emission == {
        "eventTrigger": "PERIODIC", "eventContentMode": "COMPLETE_SNAPSHOT", "windowDuration": 1
    }  # fmt: skip


def test_a_run_that_fails_says_why(told_in_file: Settings) -> None:
    with pytest.raises(ValueError, match="no broker"), report_run(told_in_file, STREAM, a_state()):
        raise ValueError("no broker answers")
    last = events_in(told_in_file)[-1]
    require_valid(last)
    assert (last["eventType"], last["run"]["facets"]["errorMessage"]["message"]) == (
        "FAIL", "ValueError: no broker answers"
    )  # fmt: skip


def test_a_server_that_does_not_answer_costs_the_stream_nothing_and_hears_the_end_from_the_next_run(
    told_in_file: Settings, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine must not have the first run give the server up, and tell its end, before the second begins.
    monkeypatch.setattr("forecache.plugins.lineage.emit._TIMEOUT_S", 300.0)
    settings = told_in_file.model_copy(update={"openlineage_url": there.url, "openlineage_file": ""})
    answers, hangs = threading.Event(), threading.Event()

    def hang(posted: Posted) -> None:
        if posted.content["eventType"] == "RUNNING":
            hangs.set()
            answers.wait(120)

    there.before = hang
    began = time.monotonic()
    with report_run(settings, STREAM, a_state()):
        entered = time.monotonic() - began
        assert hangs.wait(60)
        began = time.monotonic()
    assert entered < 30
    assert time.monotonic() - began < 30, "it waits three seconds for the last event, not for the server"
    there.before = lambda _: None
    with report_run(settings, STREAM, a_state()):
        wait_for(lambda: len(_runs(there)) == 2)
        wait_for(lambda: len(notes(settings)) == 1)
        answers.set()
        wait_for(lambda: next(iter(_runs(there).values())).count("COMPLETE") == 2)
        assert len(notes(settings)) == 1, "the first run, which ends only now, leaves the note of the second"
    assert notes(settings) == []
    first, second = _runs(there).values()
    assert first[0] == "START"
    assert [kind for kind in first if kind in ENDS][0] == "COMPLETE"
    assert second[0] == "START"
    assert second[-1] == "COMPLETE"


def test_a_server_that_was_away_hears_of_the_start_first(told_in_file: Settings, there: Receiver) -> None:
    settings = told_in_file.model_copy(update={"openlineage_url": there.url})
    there.code = 503
    with report_run(settings, STREAM, a_state()):
        wait_for(lambda: len(there.posted) >= 1)
        there.code = 200
        wait_for(lambda: "RUNNING" in kinds_told(there))
    found = kinds_told(there)
    starts = found[: found.index("RUNNING")]
    assert (set(starts), len(starts) > 1, found[-1]) == ({"START"}, True, "COMPLETE")


def kinds_told(there: Receiver) -> list[str]:
    return [each.content["eventType"] for each in there.posted]


def _runs(there: Receiver) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in there.posted:
        found.setdefault(each.content["run"]["runId"], []).append(each.content["eventType"])
    return found


_STREAMING = """
import sys, time
from stream_sample import a_stream
from forecache.base.settings import load_settings
from forecache.plugins.lineage.stream_runs import report_run
from forecache.stream.state import StreamState

settings = load_settings(home=sys.argv[1], openlineage_file=sys.argv[2])
with report_run(settings, a_stream("card-payments"), StreamState(started_at=time.time(), engine="arrow")):
    time.sleep(600)
"""


def test_a_run_that_was_killed_is_told_as_aborted_by_the_next_one_on_another_machine(
    told_in_file: Settings, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _STREAMING, str(told_in_file.home_path), told_in_file.openlineage_file]
    support = str(Path(__file__).parent.parent / "support")
    process = subprocess.Popen(command, env={**_environment(), "PYTHONPATH": f"{support}:{_python_path()}"})
    wait_for(lambda: "RUNNING" in kinds(told_in_file))
    assert [json.loads(note.read_text())["receivers"] for note in notes(told_in_file)] == [["file"]]
    process.kill()
    assert process.wait() == -signal.SIGKILL
    elsewhere = load_settings(
        home=tmp_path / "elsewhere", lake=told_in_file.lake_uri, openlineage_file=told_in_file.openlineage_file
    )
    with report_run(elsewhere, STREAM, a_state()):
        wait_for(lambda: kinds(told_in_file).count("START") == 2)
    assert notes(told_in_file) == []
    by_run: dict[str, list[str]] = {}
    for event in events_in(told_in_file):
        require_valid(event)
        by_run.setdefault(event["run"]["runId"], []).append(event["eventType"])
    first, second = by_run.values()
    assert (first[0], first[-1], second[0], second[-1]) == ("START", "ABORT", "START", "COMPLETE")
    assert [sum(kind in ENDS for kind in run) for run in (first, second)] == [1, 1]


def test_notes_that_were_not_written_to_the_end_keep_no_later_run_from_being_told(told_in_file: Settings) -> None:
    folder = Path(told_in_file.lake_uri, ".state", "lineage", "streams", STREAM.name)
    folder.mkdir(parents=True)
    begun, torn = folder / ".1.0.ab.tmp.json", folder / "1.0.json"
    begun.write_text("")
    torn.write_text('{"started_at": 1.0, "ki')
    with report_run(told_in_file, STREAM, a_state()):
        wait_for(lambda: "START" in kinds(told_in_file))
    assert kinds(told_in_file)[-1] == "COMPLETE"
    assert begun.exists(), "somebody may be writing it"
    assert not torn.exists()


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def _python_path() -> str:
    from forecache.base.settings import PROJECT_ROOT

    return str(PROJECT_ROOT)


@pytest.mark.slow
def test_a_real_stream_tells_the_version_of_its_table(tmp_path: Path, kafka: Any) -> None:
    topic = kafka.create_topic("payments")
    settings = with_file(settings_of(tmp_path / "home", kafka.brokers), tmp_path)
    release(settings)
    kafka.send(topic, [payment(number) for number in range(5)])
    engine = ArrowEngine(settings, a_stream(topic), until_caught_up=True)
    engine.run()
    events = events_in(settings)
    assert [event["eventType"] for event in events][0] == "START"
    last = events[-1]
    require_valid(last)
    assert last["eventType"] == "COMPLETE"
    assert named(last["inputs"])[0] == (f"kafka://{kafka.brokers}", topic, None)
    assert [name for _, name, _ in named(last["outputs"])] == [
        "lake/stream_payments", f"store/{CUSTOMER.name}/live", "store/payments/live"
    ]  # fmt: skip
    assert last["outputs"][0]["facets"]["version"]["datasetVersion"] == str(engine.figures.state.committed_version)
    assert last["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 5
