"""A trial touches nothing of what it defers to, also if it is killed at any step or runs twice at once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from secrets_found import files_with
from store_services import minio_server
from tried_base import Base, end, objects
from try_job import DAYS, answers, try_once, try_until
from warm import start

from forecache.base.settings import PROJECT_ROOT
from forecache.base.steps import COMMIT_STEPS, TRY_STEPS
from forecache.lake.ledger import ledger_records, records_after
from forecache.plugins.trials.trial import read_trial

pytestmark = [pytest.mark.faults, pytest.mark.slow]
PUBLISH_STEPS = ("encoded", "segments moved", "pointer moved")


@pytest.fixture(scope="module")
def find_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Base]]:
    """Finds the installation whose lake is in its home, or on a real S3-compatible server; each is made once."""
    with ExitStack() as servers:

        @cache
        def find(place: str) -> Base:
            folder = tmp_path_factory.mktemp(place)
            if place == "folder":
                return Base(folder, {})
            options = servers.enter_context(minio_server(folder / "minio", "cloud"))
            return Base(folder, {"lake": "s3://cloud/lake", "storage_options": options})

        yield find


# Of one test each: pytest would tear a wider one down after each pair of a place and a step.
@pytest.fixture(params=["folder", "bucket"])
def base(request: pytest.FixtureRequest, find_base: Callable[[str], Base]) -> Base:
    return find_base(request.param)


# From the fork on, a trial in a bucket runs as any run does in one.
STEPS = {"folder": (*TRY_STEPS, *COMMIT_STEPS, *PUBLISH_STEPS), "bucket": TRY_STEPS}


@pytest.mark.parametrize(
    ("base", "step"), [(place, step) for place, steps in STEPS.items() for step in steps], indirect=["base"]
)
def test_a_trial_killed_at_any_step_is_continued_and_the_base_is_as_it_was(base: Base, step: str) -> None:
    name = step.replace(" ", "-")
    process = start(try_until, base.changed, base.home, name, step, base.places)
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert base.read_contents() == base.contents
    is_forked = step in (*TRY_STEPS[TRY_STEPS.index("forked") :], *COMMIT_STEPS, *PUBLISH_STEPS)
    assert (read_trial(base.trial(name)) is not None) == is_forked
    end(start(try_once, base.changed, base.home, name, base.places))
    base.require_done(name)
    drafts = [path.name for path in base.settings.trials_path.iterdir() if path.name.startswith(f".draft-{name}")]
    assert drafts == []


def test_the_same_trial_twice_at_once_is_made_and_computed_once(base: Base) -> None:
    end(*(start(try_once, base.changed, base.home, "twice", base.places) for _ in range(2)))
    recorded = [(row.stage, row.subject) for row in base.require_done("twice")]
    assert len(recorded) == len(set(recorded))


def test_two_trials_at_once_do_not_meet(base: Base) -> None:
    end(*(start(try_once, base.changed, base.home, name, base.places) for name in ("one", "other")))
    for name in ("one", "other"):
        base.require_done(name)


def test_a_trial_of_the_same_declarations_computes_nothing(base: Base) -> None:
    end(start(try_once, base.project, base.home, "same", base.places))
    assert base.read_contents() == base.contents
    assert answers(base.trial("same")) == answers(base.settings)
    made = read_trial(base.trial("same"))
    assert made is not None
    assert ledger_records(base.trial("same"))[-1].commit_version == made.tables["stage_ledger"]


@pytest.mark.parametrize("base", ["folder"], indirect=True)
def test_no_file_of_the_base_is_written_through_its_link(base: Base) -> None:
    """What both have in common are files of tables and models, which nothing writes twice."""
    end(start(try_once, base.changed, base.home, "linked", base.places))
    trial = base.trial("linked").home_path
    shared = [path for path in trial.rglob("*") if path.is_file() and os.stat(path).st_nlink > 1]
    assert len(shared) > 30
    kinds = {path.suffix for path in shared if "lake" in path.relative_to(trial).parts}
    assert kinds <= {".parquet", ".json"}
    assert {path.relative_to(trial).parts[0] for path in shared} <= {"lake", "training"}


def forecache(project: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    return subprocess.run(
        [sys.executable, "-m", "forecache.cli.main", *arguments], cwd=project, capture_output=True, text=True,
        env={**kept, **variables, "PYTHONPATH": f"{project}:{PROJECT_ROOT}"}, check=False,
    )  # fmt: skip


def test_the_commands_try_list_ask_and_remove_a_trial_of_a_protected_environment(base: Base) -> None:
    options = dict(base.settings.storage_options)
    secret = options.pop("AWS_SECRET_ACCESS_KEY", "")
    more = "".join(f'{name} = "{value}"\n' for name, value in options.items())
    of_bucket = f'[prod.storage_options]\nAWS_SECRET_ACCESS_KEY = "${{S3_SECRET}}"\n{more}' if secret else ""
    (base.changed / "environments.toml").write_text(
        f'[prod]\nhome = "{base.home}"\nlake = "{base.settings.lake_uri}"\nproject = "windowed_project"\n'
        f'engine = "arrow"\ncode_version = "fixed"\nprotected = true\n{of_bucket}'
    )

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return forecache(base.changed, *arguments, S3_SECRET=secret)

    done = run("try", "--env", "prod", "--name", "asked")
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
    assert base.read_contents() == base.contents
    customer = min(base.truth)
    asked = run("get", "spend", str(customer), "--env", "prod/asked", "--json")
    assert json.loads(asked.stdout)["value"]["next_spend"] == base.truth[customer]
    listed = run("trials", "list", "--env", "prod", "--json")
    [found] = [each for each in json.loads(listed.stdout) if each["name"] == "asked"]
    assert found["environment"] == "prod/asked"
    assert set(found["changed_tables"]) >= {"predictions_spend", "stage_ledger"}
    assert "features_spend" not in found["changed_tables"]
    assert run("trials", "remove", "asked", "--env", "prod").returncode == 0
    assert run("get", "spend", str(customer), "--env", "prod/asked").returncode == 3
    assert base.read_contents() == base.contents
    if secret:
        assert [uri for uri in objects(base.settings, base.settings.trials_uri) if "/asked-" in uri] == []
        assert files_with(secret, base.home, base.settings.trials_path) == []
        assert not any(secret in each.stdout + each.stderr for each in (done, asked, listed))
