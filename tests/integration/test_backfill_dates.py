"""A backfill: chosen dates are run and no others, within a budget, and what it leaves equals a run of each date."""

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import shelf_project
from shelf_lake import LAST, landing_of, rows_of
from shelf_project.pipelines.shelf import PURCHASES, offers

from forecache.base import plugins
from forecache.base.errors import InputError, UnavailableError
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.lake.ledger import StageRecord, append_records, ledger_records
from forecache.lake.quality.validate import CheckReport, CheckResult
from forecache.plugins.plan.command import HAS_WORK
from forecache.runs import RunRequest, run_in_process

pytestmark = pytest.mark.slow
PROVENANCE = ("scored_at", "run_id")


def back(days: int) -> date:
    return LAST - timedelta(days=days)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORECACHE_PROJECT", "shelf_project")
    settings = load_settings()
    shelf_project.land(landing_of(settings))
    return settings


def contents(settings: Settings) -> list[dict[str, Any]]:
    rows = [{k: v for k, v in row.items() if k not in PROVENANCE} for row in rows_of(settings)]
    return sorted(rows, key=lambda row: (row["as_of"], row["customer"]))


def dates_of(settings: Settings) -> set[date]:
    return {row["as_of"] for row in rows_of(settings)}


def test_dates_that_do_not_follow_each_other_equal_a_run_of_each(shelf: Settings, tmp_path: Path) -> None:
    chosen = [back(6), back(4), back(3), back(0)]
    assert main(["run", "offers", "--dates", f"{back(4)}..{back(3)},{back(6)},{back(0)}"]) == 0
    single = load_settings(home=tmp_path / "single", project="shelf_project")
    shelf_project.land(landing_of(single))
    for night in chosen:
        run_in_process(single, RunRequest(["offers"], nights=(night, night)))
    assert dates_of(shelf) == set(chosen)
    assert contents(shelf) == contents(single)


def test_a_budget_stops_between_dates_and_the_same_command_goes_on(
    shelf: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "offers", "--dates", f"{back(2)}..{back(0)}", "--max-core-hours", "0.0000001"]
    seen = []
    for done in (1, 2):
        assert main(command) == 9
        said = capsys.readouterr().err
        assert f"Stopped before offers for {back(2 - done)}: " in said
        assert "The same command goes on with the others." in said
        seen.append(dates_of(shelf))
    assert seen == [{back(2)}, {back(2), back(1)}]
    assert main(command) == 0
    assert "run 3 of 3: offers" in capsys.readouterr().err
    assert dates_of(shelf) == {back(2), back(1), back(0)}
    assert main([*command, "--json"]) == 0
    assert all(stage["skipped"] for stage in json.loads(capsys.readouterr().out))


def test_the_dates_that_a_version_of_the_code_made_are_made_again(
    shelf: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(code: str, *arguments: str) -> None:
        monkeypatch.setenv("FORECACHE_CODE_VERSION", code)
        assert main(["run", "offers", *arguments]) == 0

    run("aaaa1111", "--dates", f"{back(3)}..{back(2)}")
    run("bbbb2222", "--date", str(back(1)))
    run("aaaa1111", "--date", str(back(0)))
    run("cccc3333", "--made-by", "aaaa", "--rebuild")
    rows = {row.as_of: row.code_version for row in ledger_records(shelf) if row.stage == "recommend"}
    assert rows == {back(3): "cccc3333", back(2): "cccc3333", back(1): "bbbb2222", back(0): "cccc3333"}
    capsys.readouterr()
    run("cccc3333", "--made-by", "aaaa")
    assert "No as-of date of offers is chosen." in capsys.readouterr().err


def test_the_dates_that_failed_their_last_check_are_chosen(shelf: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "offers", "--dates", f"{back(3)}..{back(0)}"]) == 0
    failed = CheckResult("unique", "customer", "critical", False, "customer is unique: 3 rows are not")
    report, table = CheckReport("offers", (failed,), 9, 0.1).to_dict(), offers.prediction_table
    verdicts = [StageRecord("check", table, back(n), "other rows", table, -1, 9, 0.1, report) for n in (3, 1)]
    append_records(shelf, verdicts)
    capsys.readouterr()
    assert main(["run", "offers", "--failed", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)
    assert {night for stage in stages if stage["stage"] == "recommend" for night in stage["nights"]} == {
        str(back(3)),
        str(back(1)),
    }
    assert main(["run", "offers", "--failed", "--json"]) == 0, "the present rows passed"
    assert json.loads(capsys.readouterr().out) == []


def test_a_dry_run_names_the_dates_that_would_run_and_runs_none(
    shelf: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(*arguments: str) -> tuple[int, dict[str, set[str]]]:
        before = ledger_records(shelf)
        code = main(["run", "offers", *arguments, "--dry-run", "--json"])
        assert ledger_records(shelf) == before
        found: dict[str, set[str]] = {}
        for each in json.loads(capsys.readouterr().out)["stages"]:
            found.setdefault(each["stage"], set()).update(each["dates"])
        return code, found

    landed = plan("--job", "ingest", "--dates", f"{back(4)}..{back(3)},{back(1)}")
    assert landed == (HAS_WORK, dict.fromkeys(("ingest", "check", "reconcile"), {str(back(n)) for n in (4, 3, 1)}))
    for code, first, last in (("aaaa1111", 3, 2), ("bbbb2222", 1, 1), ("aaaa1111", 0, 0)):
        monkeypatch.setenv("FORECACHE_CODE_VERSION", code)
        assert main(["run", "offers", "--dates", f"{back(first)}..{back(last)}"]) == 0
    capsys.readouterr()
    code, found = plan("--made-by", "aaaa", "--rebuild")
    assert (code, found["recommend"]) == (HAS_WORK, {str(back(n)) for n in (3, 2, 0)})
    assert plan("--made-by", "aaaa") == plan("--made-by", "cccc") == plan("--failed") == (0, {})
    budget = ("--dates", f"{back(5)}..{back(4)}", "--max-core-hours", "1")
    assert plan(*budget)[1]["recommend"] == {str(back(n)) for n in (5, 4)}
    monkeypatch.setattr(plugins, "is_installed", lambda name: name != "plan")
    assert main(["run", "offers", "--dry-run"]) == UnavailableError.exit_code
    assert "This installation of Forecache has no plug-in 'plan'." in capsys.readouterr().err


def test_a_date_that_is_refused_does_not_stop_the_others(shelf: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    [file] = (landing_of(shelf) / PURCHASES.name).glob(f"{back(2)}*")
    file.unlink()
    assert main(["run", "offers", "--dates", f"{back(4)},{back(2)},{back(0)}"]) == InputError.exit_code
    said = capsys.readouterr().err
    assert f"1 of 3 failed. offers for {back(2)}: " in said
    assert dates_of(shelf) == {back(4), back(0)}


def test_the_job_in_dagster_runs_the_chosen_dates_within_its_budget(shelf: Settings) -> None:
    import dagster as dg

    from jobs.definitions import build_definitions
    from resources.instance import runner_instance

    job = build_definitions(shelf).get_job_def("backfill")

    def run(**config: Any) -> tuple[dict[str, Any], list[str]]:
        with runner_instance(shelf) as instance:
            asked = {"ops": {"run_dates": {"config": {"pipelines": ["offers"], **config}}}}
            result = job.execute_in_process(run_config=asked, instance=instance)
            assert result.success
            output = result.get_step_success_events()[0]
            [made] = [e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_OUTPUT]
            metadata = {name: value.value for name, value in made.step_output_data.metadata.items()}
            names = [each.job_name for each in instance.get_runs() if each.job_name != "backfill"]
        assert output is not None
        return metadata, names

    told, runs = run()
    assert (told["runs"], dates_of(shelf)) == (1, {back(0)})
    told, runs = run(dates=f"{back(4)},{back(1)}..{back(0)}")
    assert (told["runs"], told["stopped"]) == (2, "no, all is done")
    assert dates_of(shelf) == {back(4), back(1), back(0)}
    assert runs.count("offers_nightly") == 3
    told, _ = run(dates=f"{back(6)}..{back(5)}", max_core_hours=1e-7)
    assert told["stopped"].startswith(f"Stopped before offers for {back(5)}: ")
    assert dates_of(shelf) == {back(6), back(4), back(1), back(0)}
