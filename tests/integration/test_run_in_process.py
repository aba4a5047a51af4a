"""A run that this process carries out does what Dagster's does: the same stages, rows, errors, lineage and alerts."""

import dataclasses
import json
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import shelf_project
from alert_receivers import receiver
from shelf_lake import LAST, landing_of, rows_of
from shelf_project.pipelines.shelf import PURCHASES
from till_project.pipelines.till import till

from forecache import runs
from forecache.base.errors import CheckError, ConflictError, ForecacheError, UnavailableError
from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.runs import RunRequest, reason_without_orchestrator, run_in_process

pytestmark = pytest.mark.slow
SUPPORT = Path(__file__).parent.parent / "support"
PROVENANCE = ("scored_at", "run_id")


@pytest.fixture(autouse=True)
def projects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))


@pytest.fixture
def shelf(tmp_path: Path) -> Settings:
    settings = load_settings(
        home=tmp_path / "home", project="shelf_project", openlineage_file=str(tmp_path / "home" / "events.jsonl")
    )
    shelf_project.land(landing_of(settings))
    return settings


def lines(results: list[StageResult]) -> list[StageResult]:
    """Results without what differs from run to run."""
    return [dataclasses.replace(each, seconds=0.0, details={}) for each in results]


def contents(settings: Settings) -> list[list[dict[str, Any]]]:
    tables = ("predictions_offers", "predictions_offers_items")
    found = [rows_of(settings, table) for table in tables]
    return [[{k: v for k, v in row.items() if k not in PROVENANCE} for row in rows] for rows in found]


def lineage(settings: Settings) -> list[tuple[str, str, list[str], list[str]]]:
    """State, job and data sets of each event, and the job of the run that it is part of."""
    events = [json.loads(line) for line in Path(settings.openlineage_file).read_text().splitlines()]
    found = []
    for event in events:
        parent = event["run"]["facets"].get("parent", {"job": {"name": ""}})["job"]["name"]
        names = [each["name"].rpartition("/")[2] for each in (*event.get("inputs", ()), *event.get("outputs", ()))]
        found.append((event["eventType"], event["job"]["name"], sorted(names), [parent]))
    return sorted(found)


def test_stages_tables_and_lineage_are_those_of_a_run_by_dagster(shelf: Settings, tmp_path: Path) -> None:
    from jobs.runner import run as run_by_dagster

    other = tmp_path / "other"
    shutil.copytree(shelf.home_path, other)
    by_dagster = load_settings(home=other, project="shelf_project", openlineage_file=str(other / "events.jsonl"))
    nights = (LAST - timedelta(days=1), LAST)
    here = run_in_process(shelf, RunRequest(["offers"], nights=nights))
    there = run_by_dagster(by_dagster, pipelines=["offers"], nights=nights)
    assert lines(here) == lines(there)
    assert contents(shelf) == contents(by_dagster)
    assert len(contents(shelf)[0]) > 100
    assert lineage(shelf) == lineage(by_dagster)


def test_errors_and_exit_codes_are_those_of_a_run_by_dagster(shelf: Settings) -> None:
    from jobs.runner import run as run_by_dagster

    [file] = (landing_of(shelf) / PURCHASES.name).glob(f"{LAST}*")
    file.unlink()
    request = RunRequest(["offers"], nights=(LAST - timedelta(days=1), LAST))
    errors = []
    for run in (run_by_dagster, lambda settings, **asked: run_in_process(settings, RunRequest(**asked))):
        with pytest.raises(CheckError) as failed:
            run(shelf, **vars(request))
        errors.append((type(failed.value), str(failed.value), failed.value.exit_code))
    assert errors[0] == errors[1]


def test_the_command_runs_in_its_process_where_no_stage_calls_spark_or_dagster_is_missing(
    shelf: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(shelf.home_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "shelf_project")
    monkeypatch.setattr("forecache.cli.orchestrator.import_orchestrator", lambda _: pytest.fail("Dagster was started"))
    assert main(["run", "offers", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert {stage["stage"] for stage in first if not stage["skipped"]} == {"ingest", "recommend", "publish"}
    assert main(["run", "offers"]) == 0
    said = capsys.readouterr()
    assert said.out.count("already current") == len(first)
    assert "running in this process" not in said.err  # it had nothing to do
    assert main(["run", "offers", "--rebuild"]) == 0
    assert "running in this process: no stage needs Spark" in capsys.readouterr().err
    spark = load_settings(home=shelf.home_path, project="till_project")
    assert reason_without_orchestrator(spark, RunRequest(["till"])) == ""
    assert till.features is not None
    monkeypatch.setattr(runs, "find_spec", lambda name: None if name == "dagster" else sys.modules[name].__spec__)
    assert reason_without_orchestrator(spark, RunRequest(["till"])) == "Dagster is not installed"


@pytest.mark.parametrize(
    "passing", [ConflictError("Held.", remedy="Wait."), UnavailableError("Away."), OSError("full")]
)
def test_a_passing_error_is_tried_again_and_any_other_is_not(
    shelf: Settings, monkeypatch: pytest.MonkeyPatch, passing: Exception
) -> None:
    calls: list[Exception | None] = [passing, passing, None]
    monkeypatch.setattr(runs, "RETRY_AFTER_S", (0.0, 0.0))
    monkeypatch.setattr(runs, "run_declaration", lambda *_, **__: _fail_with(calls.pop(0)))
    run_in_process(shelf, RunRequest(["offers"]))
    assert calls == []
    calls += [passing, passing, passing]
    with pytest.raises(type(passing)):
        run_in_process(shelf, RunRequest(["offers"]))
    assert calls == []
    calls += [CheckError("Wrong."), None]
    with pytest.raises(CheckError):
        run_in_process(shelf, RunRequest(["offers"]))
    assert calls == [None]


def _fail_with(error: Exception | None) -> None:
    if error is not None:
        raise error


def test_a_failed_run_is_told_at_once_and_its_end_after_a_run_of_its_dates(shelf: Settings) -> None:
    with receiver() as told:
        settings = shelf.model_copy(update={"alert_webhook": f"{told.url}/hook"})
        [file] = (landing_of(settings) / PURCHASES.name).glob(f"{LAST}*")
        kept = file.read_bytes()
        file.unlink()
        request = RunRequest(["offers"], nights=(LAST, LAST))
        with pytest.raises(ForecacheError):
            run_in_process(settings, request)
        first = json.dumps([each.content for each in told.posted])
        assert "nightly_offers" in first
        assert f"The night {LAST} is empty" in first
        sent = len(told.posted)
        run_in_process(settings, RunRequest(["offers"], nights=(LAST - timedelta(days=1),) * 2))
        assert len(told.posted) == sent  # of other dates
        file.write_bytes(kept)
        run_in_process(settings, request)
        assert "nightly_offers" in json.dumps([each.content for each in told.posted[sent:]])


def test_dagster_shows_what_such_runs_have_built_once_and_not_its_own(shelf: Settings) -> None:
    import dagster as dg

    from jobs.elsewhere import build_elsewhere_sensor
    from jobs.runner import run as run_by_dagster
    from resources.instance import runner_instance
    from resources.settings_resource import SettingsResource

    sensor = build_elsewhere_sensor()
    resource = SettingsResource(home=str(shelf.home_path), project="shelf_project")
    before = LAST - timedelta(days=1)

    def reported(cursor: str | None) -> tuple[str | None, set[tuple[str, str | None]]]:
        with runner_instance(shelf) as instance:
            found = sensor(dg.build_sensor_context(instance, cursor=cursor, resources={"settings": resource}))
        if isinstance(found, dg.SkipReason):
            return cursor, set()
        assert isinstance(found, dg.SensorResult)
        return found.cursor, {(each.asset_key.to_user_string(), each.partition) for each in found.asset_events}

    run_by_dagster(shelf, pipelines=["offers"], nights=(before, before))
    cursor, events = reported(None)
    assert events == set()
    run_in_process(shelf, RunRequest(["offers"], nights=(LAST, LAST)))
    cursor, events = reported(cursor)
    built = {("predictions_offers", str(LAST)), ("published_offers", None), ("published_offers_items", None)}
    assert events == built
    assert reported(cursor) == (cursor, set())
