"""A trial touches nothing of what it defers to, also if it is killed at any step or runs twice at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from try_job import (
    BOUND,
    CHANGED,
    DAYS,
    answers,
    contents,
    copy_project,
    land_sales,
    run_from_nothing,
    try_once,
    try_until,
)
from warm import start

from forecache.base.settings import PROJECT_ROOT, Settings, load_settings, trial_settings
from forecache.base.steps import COMMIT_STEPS, TRY_STEPS
from forecache.lake.ledger import StageRecord, ledger_records, records_after
from forecache.plugins.trials.trial import read_trial
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import open_store, parse_key

pytestmark = [pytest.mark.faults, pytest.mark.slow]
PUBLISH_STEPS = ("encoded", "segments moved", "pointer moved")


class Base:
    """An installation, the same project with another bound of its output, and what a run from nothing answers then."""

    def __init__(self, folder: Path) -> None:
        self.project = copy_project(folder / "before")
        self.changed = copy_project(folder / "after", before=BOUND, after=CHANGED)
        self.home = folder / "home"
        for project, home in ((self.project, self.home), (self.changed, folder / "truth")):
            land_sales(home / "landing")
            end(start(run_from_nothing, project, home, {}))
        self.settings = load_settings("", home=self.home)
        self.contents = contents(self.home)
        self.truth = answers(load_settings("", home=folder / "truth"))
        assert self.truth != answers(self.settings)

    def trial(self, name: str) -> Settings:
        return trial_settings(self.settings, name)

    def require_done(self, name: str) -> list[StageRecord]:
        """The trial answers as a run from nothing, the base is as it was; returns what the trial has recorded."""
        assert contents(self.home) == self.contents
        trial = self.trial(name)
        assert answers(trial) == self.truth
        made = read_trial(trial)
        assert made is not None
        recorded = [row for row in ledger_records(trial) if (row.commit_version or 0) > made.tables["stage_ledger"]]
        stages = {row.stage for row in recorded}
        assert not stages & {"ingest", "features", "training_set", "train", "register"}  # these are read from the base
        assert "score" in stages
        assert served(trial) == self.truth
        assert [row.rows for row in recorded if row.stage == "score"] == [len(self.truth)]
        return recorded


def served(settings: Settings) -> dict[int, float]:
    """The answers of the settings' store for all customers that were scored."""
    with open_store(settings, "spend").snapshot() as snapshot:
        found = VersionAnswers(snapshot)
        found.refresh(time.time())
        keys = {customer: parse_key(snapshot.manifest.key, str(customer)) for customer in answers(settings)}
        return {customer: json.loads(found.one(key))["value"]["next_spend"] for customer, key in keys.items()}


def end(*processes: Any) -> None:
    for process in processes:
        process.join(300)
        assert process.exitcode == 0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("step", [*TRY_STEPS, *COMMIT_STEPS, *PUBLISH_STEPS])
def test_a_trial_killed_at_any_step_is_continued_and_the_base_is_as_it_was(base: Base, step: str) -> None:
    name = step.replace(" ", "-")
    process = start(try_until, base.changed, base.home, name, step)
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert contents(base.home) == base.contents
    is_forked = step in (*TRY_STEPS[TRY_STEPS.index("forked") :], *COMMIT_STEPS, *PUBLISH_STEPS)
    assert (read_trial(base.trial(name)) is not None) == is_forked
    end(start(try_once, base.changed, base.home, name))
    base.require_done(name)
    drafts = [path.name for path in base.settings.trials_path.iterdir() if path.name.startswith(f".draft-{name}")]
    assert drafts == []


def test_the_same_trial_twice_at_once_is_made_and_computed_once(base: Base) -> None:
    end(*(start(try_once, base.changed, base.home, "twice") for _ in range(2)))
    recorded = [(row.stage, row.subject) for row in base.require_done("twice")]
    assert len(recorded) == len(set(recorded))


def test_two_trials_at_once_do_not_meet(base: Base) -> None:
    end(*(start(try_once, base.changed, base.home, name) for name in ("one", "other")))
    for name in ("one", "other"):
        base.require_done(name)


def test_a_trial_of_the_same_declarations_computes_nothing(base: Base) -> None:
    end(start(try_once, base.project, base.home, "same"))
    assert contents(base.home) == base.contents
    assert answers(base.trial("same")) == answers(base.settings)
    made = read_trial(base.trial("same"))
    assert made is not None
    assert ledger_records(base.trial("same"))[-1].commit_version == made.tables["stage_ledger"]


def test_no_file_of_the_base_is_written_through_its_link(base: Base) -> None:
    """What both have in common are files of tables and models, which nothing writes twice."""
    end(start(try_once, base.changed, base.home, "linked"))
    trial = base.trial("linked").home_path
    shared = [path for path in trial.rglob("*") if path.is_file() and os.stat(path).st_nlink > 1]
    assert len(shared) > 30
    kinds = {path.suffix for path in shared if "lake" in path.relative_to(trial).parts}
    assert kinds <= {".parquet", ".json"}
    assert {path.relative_to(trial).parts[0] for path in shared} <= {"lake", "training"}


def forecache(project: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    return subprocess.run(
        [sys.executable, "-m", "forecache.cli.main", *arguments], cwd=project, capture_output=True, text=True,
        env={**kept, "PYTHONPATH": f"{project}:{PROJECT_ROOT}"}, check=False,
    )  # fmt: skip


def test_the_commands_try_list_ask_and_remove_a_trial_of_a_protected_environment(base: Base) -> None:
    (base.changed / "environments.toml").write_text(
        f'[prod]\nhome = "{base.home}"\nproject = "windowed_project"\nengine = "arrow"\n'
        'code_version = "fixed"\nprotected = true\n'
    )
    done = forecache(base.changed, "try", "--env", "prod", "--name", "asked")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Environment: prod\n")
    assert f"spend for {DAYS[-1]} in the trial prod/asked:" in done.stderr
    assert "stages were computed in the trial 'asked', the others were there." in done.stdout
    heading, *lines = done.stdout.partition(" core-seconds. Begun now")[0].splitlines()[:-1]
    assert heading == "What is computed; all else is read as prod has it:"
    words = [line.split()[:2] for line in lines if line.strip()]
    planned = words[words.index(["stage", "of"]) + 2 :]
    made = read_trial(base.trial("asked"))
    assert made is not None
    recorded = records_after(base.trial("asked"), made.tables["stage_ledger"])
    assert {tuple(each) for each in planned} == {(row.stage, row.subject) for row in recorded}
    assert contents(base.home) == base.contents
    customer = min(base.truth)
    asked = forecache(base.changed, "get", "spend", str(customer), "--env", "prod/asked", "--json")
    assert json.loads(asked.stdout)["value"]["next_spend"] == base.truth[customer]
    listed = forecache(base.changed, "trials", "list", "--env", "prod", "--json")
    [found] = [each for each in json.loads(listed.stdout) if each["name"] == "asked"]
    assert found["environment"] == "prod/asked"
    assert set(found["changed_tables"]) >= {"predictions_spend", "stage_ledger"}
    assert "features_spend" not in found["changed_tables"]
    assert forecache(base.changed, "trials", "remove", "asked", "--env", "prod").returncode == 0
    assert forecache(base.changed, "get", "spend", str(customer), "--env", "prod/asked").returncode == 3
    assert contents(base.home) == base.contents
