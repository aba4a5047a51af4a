"""Streams in Dagster: assets with lineage, checks, and a sensor that reports, checks and starts."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from waiting import eventually
from watched_streams import D, StreamTable, cards, moment

from assets.streams import build_stream_checks
from forecache.base.settings import Settings, load_settings
from forecache.plugins.alerts.orchestration import read_event_log_alerts
from forecache.stream.state import StreamState, read_starts, stream_folder, write_state
from forecache.stream.status import CHECKS
from jobs.definitions import build_definitions
from resources.instance import runner_instance
from resources.settings_resource import SettingsResource

SUPPORT = Path(__file__).parent.parent / "support"


def well(**changed: Any) -> StreamState:
    """A stream that does well at the moment."""
    now = time.time()
    state = StreamState(
        1, now - 100, now, engine="arrow", offsets={"0": 5}, end_offsets={"0": 5}, rows=5, rows_per_s=1.0,
        delay_p50_s=0.4, delay_p99_s=0.9, committed_version=4, committed_at=now,
    )  # fmt: skip
    return replace(state, **changed)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.syspath_prepend(str(SUPPORT))
    # A state that a test has written stays young, however slowly the machine looks at it.
    monkeypatch.setattr("forecache.stream.state.FRESH_S", 600.0)
    return load_settings(home=tmp_path / "home", project="watched_project")


@pytest.fixture
def repository(home: Settings) -> dg.RepositoryDefinition:
    return build_definitions(home).get_repository_def()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def tick(
    home: Settings, repository: dg.RepositoryDefinition, instance: dg.DagsterInstance
) -> Callable[..., dg.SensorResult]:
    def evaluated(cursor: str | None = None) -> dg.SensorResult:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, repository_def=repository,
            resources={"settings": SettingsResource(home=str(home.home_path), project=home.project)},
        )  # fmt: skip
        found = repository.get_sensor_def("streams")(context)
        assert isinstance(found, dg.SensorResult)
        return found

    return evaluated


def test_lineage_goes_from_the_topic_to_the_live_layer_and_to_the_files_of_the_night(home: Settings) -> None:
    graph = build_definitions(home).resolve_asset_graph()

    def parents(name: str) -> set[str]:
        return {key.to_user_string() for key in graph.get(dg.AssetKey([name])).parent_keys}

    assert parents("stream_cards") == {"topic_payments"}
    assert parents("live_customer") == {"stream_cards", "published_customer"}
    assert parents("landing_payments") == {"stream_cards"}
    assert "landing_payments" in parents("raw_payments")
    checks = {key.name for key in graph.asset_check_keys if key.asset_key == dg.AssetKey(["stream_cards"])}
    assert checks == set(CHECKS)


def test_jobs_schedules_and_sensors_are_there(repository: dg.RepositoryDefinition) -> None:
    assert {"maintain_streams", "payments_ingest"} <= set(repository.job_names)
    assert repository.get_schedule_def("maintain_streams_schedule").default_status.value == "RUNNING"
    assert repository.get_sensor_def("streams").default_status.value == "RUNNING"


def test_a_version_and_the_verdicts_are_reported_once(home: Settings, tick: Callable[..., dg.SensorResult]) -> None:
    assert tick().asset_events == [], "it never ran"
    write_state(home.home_path, "cards", well())
    first = tick()
    made = [event for event in first.asset_events if isinstance(event, dg.AssetMaterialization)]
    assert [event.asset_key.to_user_string() for event in made] == ["stream_cards"]
    assert made[0].metadata["delta_version"].value == 4
    assert made[0].metadata["delay_p99_s"].value == 0.9
    said = {event.check_name: event for event in first.asset_events if isinstance(event, dg.AssetCheckEvaluation)}
    assert set(said) == set(CHECKS)
    assert all(event.passed for event in said.values())
    again = tick(first.cursor)
    assert again.asset_events == [], "nothing is new"
    write_state(home.home_path, "cards", well(lag_events=900, committed_version=5))
    behind = tick(again.cursor)
    [changed] = behind.asset_events
    assert (changed.check_name, changed.passed) == ("lag", False), "a version more is reported after five minutes"
    cursor = json.loads(behind.cursor or "")
    cursor["cards"]["made_at"] -= 301
    [version] = tick(json.dumps(cursor)).asset_events
    assert version.metadata["delta_version"].value == 5


def test_the_events_are_kept_by_dagster_and_told_by_the_look_at_streams_alone(
    home: Settings, tick: Callable[..., dg.SensorResult], instance: dg.DagsterInstance
) -> None:
    write_state(home.home_path, "cards", well(bad=500))
    for event in tick().asset_events:
        instance.report_runless_asset_event(event)
    made = instance.get_latest_materialization_event(dg.AssetKey(["stream_cards"]))
    assert made is not None
    assert read_event_log_alerts(home, instance).alerts == []


def said(result: dg.SensorResult) -> str:
    return str(result.skip_reason and result.skip_reason.skip_message)


def test_a_dead_stream_is_started_where_the_settings_ask_for_it(
    home: Settings, tick: Callable[..., dg.SensorResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(home.home_path, "cards", well(written_at=time.time() - 3600))
    died = tick()
    assert read_starts(home, "cards").total == 0
    failed = {event.check_name for event in died.asset_events if getattr(event, "passed", True) is False}
    assert "runs" in failed
    monkeypatch.setenv("FORECACHE_STREAM_KEEP_RUNNING", "true")
    assert said(tick(died.cursor)) == "cards was started"
    assert read_starts(home, "cards").total == 1
    # It ends at once: unlike this process it does not find the project.
    assert eventually(lambda: "cards is started again in" in said(tick()))
    assert "watched_project" in (stream_folder(home.home_path, "cards") / "log").read_text()


@pytest.mark.slow
def test_the_checks_can_be_executed_by_hand_and_the_maintenance_runs(
    home: Settings, repository: dg.RepositoryDefinition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(home.home_path))
    monkeypatch.setenv("FORECACHE_PROJECT", home.project)
    write_state(home.home_path, "cards", well())
    table = StreamTable(home)
    for number in range(4):
        table.commit([moment(D[0], number)], at=moment(D[0], 1))
    with runner_instance(home) as instance:
        done: Any = repository.get_job("maintain_streams").execute_in_process(instance=instance)
        assert done.success
        output = next(event for event in done.all_events if event.is_successful_output)
        assert output.step_output_data.metadata["merged_files"].value == 4
    check: Any = build_stream_checks(cards())
    results = list(check(settings=SettingsResource(home=str(home.home_path), project=home.project)))
    assert {each.check_name for each in results} == set(CHECKS)
    assert all(each.passed for each in results)
