"""A run that this process carries out does what Dagster's does: the same stages, rows, errors, lineage and alerts."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import shelf_project
from alert_receivers import receiver
from shelf_lake import LAST, landing_of, rows_of
from shelf_project.pipelines.shelf import PURCHASES
from till_project.pipelines.till import till

from forecache import night, runs
from forecache.base.alert import Alert, Subject
from forecache.base.errors import CheckError, ConflictError, ForecacheError, InputError, UnavailableError
from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import WorkNeeded, only_look
from forecache.cli.main import main
from forecache.declare.loading import read_project
from forecache.lake.ledger import StageRecord, append_records
from forecache.lake.quality.expectations import DRIFT, EXPECTATIONS, READ
from forecache.lake.quality.pending_files import ProcessRun
from forecache.models.tracking.client import connect_mlflow
from forecache.plugins.alerts.journal import JOURNAL_FILE, read_journal
from forecache.plugins.alerts.notify import notify
from forecache.plugins.drift import prediction_drift
from forecache.runs import RunRequest, look_for_work, reason_without_orchestrator, run_in_process
from forecache.serve.store import open_store
from forecache.serve.store.read.snapshot import split_entry

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


def test_a_view_that_a_real_time_model_looks_up_is_run_and_ingested_by_its_name(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", project="asked_project")
    assert "household" not in read_project(settings).nightly
    assert reason_without_orchestrator(settings, RunRequest(["household"])) == "no stage needs Spark"
    with pytest.raises(InputError, match="has no landing file"):
        run_in_process(settings, RunRequest(["household"]))


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
        assert "offers_nightly" in first
        assert f"As-of date {LAST} is empty" in first
        sent = len(told.posted)
        run_in_process(settings, RunRequest(["offers"], nights=(LAST - timedelta(days=1),) * 2))
        assert len(told.posted) == sent  # of other dates
        file.write_bytes(kept)
        run_in_process(settings, request)
        assert "offers_nightly" in json.dumps([each.content for each in told.posted[sent:]])


def open_alerts(settings: Settings) -> dict[Subject, Alert]:
    return {alert.subject: alert for alert in read_journal(settings).open_alerts}


def test_a_run_ends_alerts_of_runs_by_dagster_also_if_it_has_nothing_else_to_do(shelf: Settings) -> None:
    with receiver() as told:
        settings = shelf.model_copy(update={"alert_webhook": f"{told.url}/hook"})
        run_in_process(settings, RunRequest(["offers"]))
        assert look_for_work(settings, RunRequest(["offers"])) is not None
        check, other = f"predictions_offers.{EXPECTATIONS}", LAST - timedelta(days=40)
        left = [
            Alert("check_failed", check, "critical", "It failed.", occasion=str(LAST)),
            Alert("check_failed", check, "critical", "It failed.", occasion=str(other)),
            Alert("run_failed", "offers_nightly", "critical", "It failed.", {"nights": str(LAST)}, occasion="a run"),
        ]
        notify(settings, left)
        sent = len(told.posted)
        assert look_for_work(settings, RunRequest(["offers"])) is None
        assert len(told.posted) == sent
        assert all(result.skipped for result in run_in_process(settings, RunRequest(["offers"])))
        assert set(open_alerts(settings)) == {left[1].subject}
        assert len(told.posted) > sent
        assert look_for_work(settings, RunRequest(["offers"])) is not None


def test_a_check_that_stops_nothing_is_told(shelf: Settings) -> None:
    with receiver() as told:
        settings = shelf.model_copy(update={"alert_webhook": f"{told.url}/hook"})
        (landing_of(settings) / PURCHASES.name / f"{LAST}.2.csv").write_bytes(b"no,header,of,this,source\n1\n")
        run_in_process(settings, RunRequest(["offers"]))
        subject = Subject("check_failed", f"{PURCHASES.raw_table}.{READ}", str(LAST))
        alert = open_alerts(settings)[subject]
        assert alert.severity == "info"
        assert f"{LAST}.2.csv" in alert.summary
        assert "in quarantine" in json.dumps([each.content for each in told.posted])


@pytest.mark.parametrize(
    ("level", "blocks", "severity"),
    [("none", False, None), ("small", False, "info"), ("large", False, "warning"), ("large", True, "critical")],
)
def test_drift_is_told_by_its_size(
    shelf: Settings, monkeypatch: pytest.MonkeyPatch, level: str, blocks: bool, severity: str | None
) -> None:
    report = prediction_drift.DriftReport.__new__(prediction_drift.DriftReport)
    for name, value in (("level", level), ("blocks", blocks), ("sentence", "It moved.")):
        monkeypatch.setattr(prediction_drift.DriftReport, name, value)
    monkeypatch.setattr(prediction_drift, "check_drift", lambda *_, **__: {LAST: report})
    run: Any = ProcessRun(shelf)
    pipeline: Any = SimpleNamespace(prediction_table="predictions_offers")
    if blocks:
        with pytest.raises(CheckError, match="It moved"):
            prediction_drift.require_no_drift(run, pipeline, [LAST])
    else:
        prediction_drift.require_no_drift(run, pipeline, [LAST])
    [(subject, alert)] = run.checks.items()
    assert subject == Subject("check_failed", f"predictions_offers.{DRIFT}", str(LAST))
    assert (alert and alert.severity) == severity


def test_a_failed_check_is_one_alert_and_an_unknown_error_is_told_in_a_line(
    shelf: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: ProcessRun, *_: Any, **__: Any) -> None:
        run.note_check("predictions_offers", EXPECTATIONS, LAST, "A key is there twice.", "critical")
        raise CheckError("A key is there twice.")

    def break_(*_: Any, **__: Any) -> None:
        raise ValueError("first line\nsecond line")

    with receiver() as told:
        settings = shelf.model_copy(update={"alert_webhook": f"{told.url}/hook"})
        for stage, error in ((fail, CheckError), (break_, ValueError)):
            monkeypatch.setattr(runs, "run_declaration", stage)
            with pytest.raises(error):
                run_in_process(settings, RunRequest(["offers"]))
        failed, broken = (each.summary for each in open_alerts(settings).values())
        assert "A key is there twice" in failed
        assert "ValueError: first line." in broken
        assert "second" not in broken


def test_a_damaged_journal_of_alerts_fails_no_run(shelf: Settings) -> None:
    with receiver() as told:
        settings = shelf.model_copy(update={"alert_webhook": f"{told.url}/hook"})
        journal = Path(settings.lake_uri) / ".state" / JOURNAL_FILE
        journal.parent.mkdir(parents=True)
        journal.write_text("{")
        assert run_in_process(settings, RunRequest(["offers"]))


def test_sigterm_interrupts_a_run_which_then_goes_on(shelf: Settings) -> None:
    script = """
import sys, time
from forecache.base.steps import lake_step
from forecache.cli.main import main

def stand_still(step):
    print(step, flush=True)
    while True:
        time.sleep(0.1)

lake_step.on_step = stand_still
sys.exit(main(["run", "offers"]))
"""
    environment = {"FORECACHE_HOME": str(shelf.home_path), "FORECACHE_PROJECT": "shelf_project"}
    paths = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **environment, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "file written"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
    assert process.returncode == 130, said
    assert "Interrupted" in said
    assert list((shelf.home_path / "ingest").iterdir()) == []
    assert run_in_process(shelf, RunRequest(["offers"]))
    assert len(contents(shelf)[0]) > 100


_RUN = """
import sys
from dying import dies_at
from forecache.base import steps
from forecache.cli.main import main

kind, step, times = sys.argv[1:]
if kind:
    getattr(steps, kind).on_step = dies_at(step, int(times))
sys.exit(main(["run", "offers"]))
"""


def start_run(settings: Settings, kind: str = "", step: str = "", times: int = 1) -> "subprocess.Popen[str]":
    """A run in a process of its own, which is killed when it has done a step so many times."""
    environment = {"FORECACHE_HOME": str(settings.home_path), "FORECACHE_PROJECT": "shelf_project"}
    paths = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, kind, step, str(times)],
        env={**os.environ, **environment, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lists(settings: Settings) -> list[list[dict[str, Any]]]:
    """The contents without the Delta version of the raw rows, which is higher after a commit that nobody recorded."""
    return [[{k: v for k, v in row.items() if k != "feature_version"} for row in rows] for rows in contents(settings)]


def served(settings: Settings) -> dict[str, bytes]:
    """The served values by store and key, without the times of their scoring."""
    found = {}
    for name in ("offers", "offers_items"):
        with open_store(settings, name).snapshot() as snapshot:
            found |= {f"{name} {key!r}": split_entry(entry)[0] for key, entry in snapshot.items()}
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = load_settings(home=tmp_path_factory.mktemp("undisturbed"), project="shelf_project")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(SUPPORT))
        shelf_project.land(landing_of(settings))
        run_in_process(settings, RunRequest(["offers"]))
    return settings


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "step", "times"),
    [
        *(("lake_step", step, 1) for step in ("file written", "decided", "committed")),
        *(("lake_step", "committed", times) for times in (2, 3, 4, 5, 6)),
        *(("publish_step", step, 1) for step in ("segments moved", "manifest written", "pointer moved")),
    ],
)
def test_a_run_that_is_killed_at_a_step_is_finished_by_the_next(
    shelf: Settings, undisturbed: Settings, kind: str, step: str, times: int
) -> None:
    with start_run(shelf, kind, step, times) as killed:
        _, said = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, said
    assert look_for_work(shelf, RunRequest(["offers"])) is None
    with start_run(shelf) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert lists(shelf) == lists(undisturbed)
    assert served(shelf) == served(undisturbed)
    assert look_for_work(shelf, RunRequest(["offers"])) is not None


@pytest.mark.faults
def test_two_runs_at_once_end_as_one(shelf: Settings, undisturbed: Settings) -> None:
    with start_run(shelf) as one, start_run(shelf) as other:
        failures = [process.communicate()[1] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), failures
    assert lists(shelf) == lists(undisturbed)
    assert served(shelf) == served(undisturbed)
    assert look_for_work(shelf, RunRequest(["offers"])) is not None


def test_a_look_neither_creates_the_registry_nor_trains(shelf: Settings) -> None:
    with only_look() as has_work:
        with pytest.raises(WorkNeeded):
            connect_mlflow(shelf)
        assert has_work()
    assert not (shelf.home_path / "mlflow").exists()
    with only_look(), pytest.raises(WorkNeeded, match="training till"):
        night.train_model(ProcessRun(shelf), till, date(2026, 1, 5), is_wanted=True)


def test_dagster_shows_what_such_runs_have_built_once_and_not_its_own(shelf: Settings) -> None:
    import dagster as dg

    from jobs.definitions import build_definitions
    from jobs.elsewhere import build_elsewhere_sensor
    from jobs.runner import run as run_by_dagster
    from resources.instance import runner_instance
    from resources.settings_resource import SettingsResource

    sensor, definitions = build_elsewhere_sensor(), build_definitions(shelf).get_repository_def()
    resource = SettingsResource(home=str(shelf.home_path), project="shelf_project")
    before = LAST - timedelta(days=1)

    def reported(cursor: str | None) -> tuple[str | None, set[tuple[str, str | None]]]:
        with runner_instance(shelf) as instance:
            given = {"repository_def": definitions, "resources": {"settings": resource}}
            found = sensor(dg.build_sensor_context(instance, cursor=cursor, **given))
        if isinstance(found, dg.SkipReason):
            return cursor, set()
        assert isinstance(found, dg.SensorResult)
        return found.cursor, {(each.asset_key.to_user_string(), each.partition) for each in found.asset_events}

    run_by_dagster(shelf, pipelines=["offers"], nights=(before, before))
    cursor, events = reported(None)
    assert events == set()
    rows = [StageRecord("tiles", "visits", LAST, "", "tiles_visits", 3, 5, 1.0, run_id="no run of Dagster")]
    rows += [StageRecord("check", "raw_visits", LAST, "", "raw_visits", -1, 5, 1.0, run_id="no run of Dagster")] * 1_500
    append_records(shelf, rows)
    run_in_process(shelf, RunRequest(["offers"], nights=(LAST, LAST)))
    cursor, events = reported(cursor)
    built = {("predictions_offers", str(LAST)), ("published_offers", None), ("published_offers_items", None)}
    assert events == built
    assert reported(cursor) == (cursor, set())
