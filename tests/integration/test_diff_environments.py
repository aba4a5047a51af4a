"""`forecache diff` of an environment and a trial of a changed feature: all that it says, and that it only reads."""

import json
import os
import re
import subprocess
import sys
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from try_job import DAYS, answers, contents, copy_project, land_sales, run_day, run_from_nothing, try_full
from warm import start

from forecache.base.settings import Settings, load_settings, trial_settings
from forecache.kit.delta.tables import open_table

pytestmark = pytest.mark.slow
FEATURE = ("max(amount) AS most", "max(amount) * 2 - min(amount) AS most")
SIDES = ("--env", "local", "--env", "local/change")


class Change:
    """An installation, and a trial of a changed feature in it, with a model that is trained on it."""

    def __init__(self, folder: Path) -> None:
        self.home, self.project = folder / "home", folder / "after"
        copy_project(folder / "before")
        copy_project(self.project, before=FEATURE[0], after=FEATURE[1])
        land_sales(self.home / "landing")
        for job, arguments in ((run_from_nothing, (folder / "before", self.home, {})),
                               (try_full, (self.project, self.home, "change", {}))):  # fmt: skip
            process = start(job, *arguments)
            process.join(300)
            assert process.exitcode == 0
        self.before = load_settings("", home=self.home)
        self.after = trial_settings(self.before, "change")

    def diff(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Output and messages of the command."""
        variables = {
            **{name: text for name, text in os.environ.items() if not name.startswith("FORECACHE_")},
            "FORECACHE_HOME": str(self.home),
            "FORECACHE_PROJECT": "windowed_project",
            "FORECACHE_ENGINE": "arrow",
            "PYTHONPATH": f"{self.project}{os.pathsep}{Path(__file__).parents[2]}",
        }
        command = [sys.executable, "-m", "forecache.cli.main", "diff", *arguments]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    def describe(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.diff(*arguments, "--json")[0])
        return found

    @cached_property
    def described(self) -> dict[str, Any]:
        """What differs of the installation and its trial."""
        return self.describe(*SIDES)


@pytest.fixture(scope="module")
def change(tmp_path_factory: pytest.TempPathFactory) -> Change:
    return Change(tmp_path_factory.mktemp("change"))


def rows_of(settings: Settings, table: str, night: date = DAYS[-1]) -> dict[int, dict[str, Any]]:
    rows = open_table(settings, table).to_pyarrow_table(filters=[("as_of", "=", night)]).to_pylist()
    return {row["customer"]: row for row in rows}


def test_rows_values_and_movers_are_those_of_the_tables(change: Change) -> None:
    found = change.described
    [name] = found["names"]
    assert (name["name"], name["kind"], name["before"], name["after"]) == ("spend", "pipeline", *[str(DAYS[-1])] * 2)
    assert [table["table"] for table in name["tables"]] == ["features_habits", "features_spend", "predictions_spend"]
    assert name["equal"] == ["features_customer"]
    habits = name["tables"][0]
    [most] = [each for each in habits["columns"] if each["changed"]]
    old, new = (rows_of(settings, "features_habits") for settings in (change.before, change.after))
    assert (most["name"], most["changed"]) == ("most", sum(old[key]["most"] != new[key]["most"] for key in old))
    assert most["before"]["mean"] == pytest.approx(np.mean([row["most"] for row in old.values()]))
    assert most["after"]["mean"] == pytest.approx(np.mean([row["most"] for row in new.values()]))
    assert habits["reasons"]
    assert not any(reason.startswith("its code or declaration changed") for reason in habits["reasons"])
    ours, theirs = answers(change.before), answers(change.after)
    changed = [key for key in ours if ours[key] != theirs[key]]
    scores = name["tables"][-1]
    assert scores["answers_changed"] == len(changed) > 0
    assert found["changed_share"] == name["changed_share"] == pytest.approx(len(changed) / len(ours))
    movers = scores["columns"][0]["movers"]
    moves = sorted((-abs(theirs[key] - ours[key]), str(key)) for key in changed)[:5]
    assert [(each["key"], each["distance"]) for each in movers] == [([key], -move) for move, key in moves]


def test_the_largest_changes_are_explained_on_both_sides(change: Change) -> None:
    [name] = change.described["names"]
    ours, theirs = answers(change.before), answers(change.after)
    assert len(name["explained"]) == 3
    for each in name["explained"]:
        key = int(each["key"])
        assert (each["before"], each["after"], each["missing"]) == (ours[key], theirs[key], "")
        for side, answer in (("before", ours[key]), ("after", theirs[key])):
            added = sum(feature[f"adds_{side}"] for feature in each["features"])
            assert each[f"base_{side}"] + added == pytest.approx(answer, rel=1e-4)
            row = rows_of(change.before if side == "before" else change.after, "features_spend")[key]
            for feature in each["features"]:
                assert feature[f"value_{side}"] == row[feature["name"]]


def test_both_models_are_measured_on_the_rows_that_both_test_splits_have(change: Change) -> None:
    models = change.described["names"][0]["models"]
    assert (models["before"]["version"], models["after"]["version"], models["differ"]) == (1, 2, True)
    splits = [
        open_table(settings, "training_set_spend").to_pyarrow_table(filters=[("split", "=", "test")]).to_pylist()
        for settings in (change.before, change.after)
    ]
    keys = [{(row["customer"], row["as_of"]) for row in split} for split in splits]
    assert models["rows"] == len(keys[0] & keys[1]) > 0
    assert set(models["metrics"]) >= {"mae", "rmse"}
    # The rows of both are the same here, so that each side has the figures of its own gate.
    from forecache.declare.loading import read_project
    from forecache.models.registry.model_versions import find_champion

    sys.path.insert(0, str(change.project))
    try:
        pipeline = read_project(load_settings("", home=change.home, project="windowed_project")).pipelines["spend"]
    finally:
        sys.path.remove(str(change.project))
    for side, settings in ((0, change.before), (1, change.after)):
        champion = find_champion(settings, pipeline)
        assert champion is not None
        assert models["metrics"]["mae"][side] == pytest.approx(champion.metrics["mae"])


def test_served_answers_are_those_of_both_stores(change: Change) -> None:
    [served] = change.described["names"][0]["served"]
    ours, theirs = answers(change.before), answers(change.after)
    assert served["keys"] == len(ours)
    assert served["same"] == sum(ours[key] == theirs[key] for key in ours)
    assert served["other"] == served["keys"] - served["same"]
    for each in served["examples"]:
        key = int(each["key"])
        assert json.loads(each["before"])["next_spend"] == pytest.approx(ours[key])
        assert json.loads(each["after"])["next_spend"] == pytest.approx(theirs[key])


def test_limits_exit_with_6_in_one_sentence(change: Change) -> None:
    share = change.described["changed_share"]
    output, said = change.diff(*SIDES, "--max-changed", "0.01", code=6)
    assert "predictions_spend" in output
    assert f"{share:.2%} of the answers of spend change, and at most 1.00% may." in said
    change.diff(*SIDES, "--max-changed", "1")


def test_a_gate_that_failed_after_exits_with_6_though_the_champion_still_answers(change: Change) -> None:
    project = change.home.parent / "refused"
    copy_project(project, before='floors={"mae": 1e6}', after='floors={"mae": 0.0}')
    [file] = (project / "windowed_project" / "pipelines").glob("[a-z]*.py")
    file.write_text(file.read_text().replace("n_estimators=20", "n_estimators=19"))
    process = start(try_full, project, change.home, "refused", {})
    process.join(300)  # it fails with the gate
    found = json.loads(change.diff("--env", "local", "--env", "local/refused", "--json")[0])
    assert [(name["name"], name["tables"]) for name in found["names"]] == [("spend", [])]
    [sentence] = found["failed_gates"]
    assert sentence.startswith("Model spend 2 failed the gate: mae ")
    _, said = change.diff("--env", "local", "--env", "local/refused", "--max-changed", "1", code=6)
    assert sentence in said
    assert change.describe(*SIDES)["failed_gates"] == []


def test_markdown_and_page_have_what_differs_and_nothing_from_elsewhere(change: Change, tmp_path: Path) -> None:
    path = tmp_path / "diff.html"
    output, _ = change.diff(*SIDES, "--markdown", "--html", str(path))
    assert output.startswith("### What differs between `local` and `local/change`")
    assert "| `spend` | 2026-01-20 |" in output
    page = path.read_text()
    assert page.count("<svg") >= 4
    assert "next_spend" in page
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)


def test_nothing_differs_of_a_side_and_itself_and_nothing_is_written(change: Change) -> None:
    folder = change.home.parent
    before = contents(folder)
    change.diff(*SIDES)
    assert change.diff("--env", "local", "--env", "local")[0].startswith("Nothing differs")
    after = {name: each for name, each in contents(folder).items() if "__pycache__" not in name}
    assert after == {name: each for name, each in before.items() if "__pycache__" not in name}


def test_two_dates_and_two_versions_of_one_environment(change: Change) -> None:
    process = start(run_day, change.project.parent / "before", change.home, DAYS[-2])
    process.join(300)
    assert process.exitcode == 0
    dates = ("--date", str(DAYS[-2]), "--date", str(DAYS[-1]))
    found = change.describe("spend", *dates)
    old, new = (rows_of(change.before, "predictions_spend", night) for night in (DAYS[-2], DAYS[-1]))
    scores = found["names"][0]["tables"][-1]
    both = old.keys() & new.keys()
    assert scores["answers_changed"] == sum(old[key]["next_spend"] != new[key]["next_spend"] for key in both)
    assert (scores["added"], scores["gone"]) == (len(new.keys() - old.keys()), len(old.keys() - new.keys()))
    newest = open_table(change.before, "predictions_spend").version()
    versions = ("--version", str(newest), "--version", str(newest))
    assert change.diff("spend", "--date", str(DAYS[-1]), *versions)[0].startswith("Nothing differs")


def test_one_side_alone_is_a_usage_error(change: Change) -> None:
    _, said = change.diff("--env", "local", code=2)
    assert "Give --env twice" in said
