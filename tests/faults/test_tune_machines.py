"""Searches on machines that share a lake and a registry: one searches, the others wait, or go on with what it left."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_sample import NIGHT
from sample_project.pipelines.visits import returns
from store_services import minio_server
from training_sample import write_training_set
from tune_machine import TRAINED, be_searcher
from warm import processes, start

from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import tune_step
from forecache.kit.delta.tables import open_table
from forecache.models.tracking.client import connect_mlflow
from forecache.models.training.run_files import open_training_root
from forecache.plugins.maintenance.lake import pinned_versions
from forecache.plugins.tune.search import tune

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]

ELSEWHERE = {"host": "gpu-7", "machine": "another boot"}


class Machine:
    """A process with an empty home; see `be_searcher`."""

    def __init__(self, fields: dict[str, Any], home: Path, **todo: Any) -> None:
        self._pipe, theirs = processes().Pipe()
        self.process = start(be_searcher, {**fields, "home": str(home)}, {"log": str(home.parent), **todo}, theirs)
        theirs.close()

    def said(self) -> Any:
        return self._pipe.recv()

    def go_on(self) -> None:
        self._pipe.send("go on")

    def ended(self) -> StageResult:
        said = self.said()
        assert isinstance(said, StageResult), said
        return said


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio") / "minio", "cloud") as found:
        yield found


@pytest.fixture
def fields(tmp_path: Path, options: dict[str, str]) -> dict[str, Any]:
    found = {
        "project": "sample_project",
        "lake": f"s3://cloud/{tmp_path.name}/lake",
        "storage_options": options,
        "mlflow_uri": f"sqlite:///{tmp_path}/mlflow.db",
        "mlflow_artifacts": (tmp_path / "artifacts").as_uri(),
    }
    settings = load_settings(home=tmp_path / "setup", **found)
    write_training_set(settings, returns, rows_per_date=10)
    connect_mlflow(settings).search_experiments()  # two that make its tables at once fail
    return found


def trained(folder: Path) -> list[str]:
    return (folder / TRAINED).read_text().splitlines()


def assert_searched_once(settings: Settings, found: StageResult) -> None:
    """One search in MLflow and one row in the ledger; and nothing is left of trials that have ended."""
    client = connect_mlflow(settings)
    [experiment] = [each for each in client.search_experiments() if each.name == returns.name]
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert (parent.info.run_id, parent.info.status) == (found.details["mlflow_run_id"], "FINISHED")
    children = [run for run in runs if run.data.tags.get("forecache.trial_state") == "complete"]
    losses = {run.data.metrics["validation_loss"] for run in children}
    assert found.details["best_loss"] == min(losses)
    rows = open_table(settings, "stage_ledger").to_pyarrow_table().to_pylist()
    assert [row["rows"] for row in rows if row["stage"] == "tune"] == [4]
    names = [name.rpartition("/")[2] for name in open_training_root(settings).names()]
    assert sorted(names) == ["spec.json", "study.journal", "training.json"]


def test_the_second_machine_waits_for_the_first_and_takes_its_result(fields: dict[str, Any], tmp_path: Path) -> None:
    first = Machine(fields, tmp_path / "first", stop=["trial ended", 2], holder=ELSEWHERE)
    assert first.said() == "stopped"
    second = Machine(fields, tmp_path / "second")
    assert second.said() == "waiting"
    first.go_on()
    ended, taken = first.ended(), second.ended()
    assert (ended.skipped, taken.skipped) == (False, True)
    assert {**taken.details, "parallel": 1} == {**ended.details, "parallel": 1}
    assert len(trained(tmp_path)) == 4
    assert_searched_once(load_settings(home=tmp_path / "here", **fields), taken)


@pytest.mark.parametrize("step", tune_step.names)
def test_a_search_goes_on_where_a_machine_that_is_lost_had_got_to(
    fields: dict[str, Any], tmp_path: Path, step: str
) -> None:
    number = 5 if step == "journal shared" else 2  # the second trial has begun, or has ended
    first = Machine(fields, tmp_path / "first", die=[step, number])
    first.process.join(200)
    assert first.process.exitcode == -signal.SIGKILL
    settings = load_settings(home=tmp_path / "here", **fields)
    assert pinned_versions(settings)[returns.training_table], "a search that is to go on keeps its training set"
    before = trained(tmp_path)
    found = Machine(fields, tmp_path / "second").ended()
    assert (found.skipped, found.rows, found.details["declared_loss"]) == (
        False, 4, 0.5 + returns.training.learning_rate,
    )  # fmt: skip
    after = trained(tmp_path)[len(before) :]
    if step == "trial begun":  # nobody knows of the second one
        assert (len(before), len(after)) == (1, 3)
    elif step == "trial ended":  # others know that the second one began
        assert (len(before), len(after)) == (2, 3)
        assert after[0] == before[1], "with the same values"
    else:
        assert (len(before), len(after)) == (2, 2)
    assert_searched_once(settings, found)
    assert Machine(fields, tmp_path / "third").ended().skipped


@pytest.mark.parametrize(("number", "trainings"), [(1, 4), (9, 0)])
def test_a_machine_that_is_lost_before_the_first_trial_or_after_the_last_one_leaves_no_open_run(
    fields: dict[str, Any], tmp_path: Path, number: int, trainings: int
) -> None:
    first = Machine(fields, tmp_path / "first", die=["journal shared", number])
    first.process.join(200)
    assert first.process.exitcode == -signal.SIGKILL
    before = trained(tmp_path) if (tmp_path / TRAINED).exists() else []
    found = Machine(fields, tmp_path / "second").ended()
    assert (found.skipped, found.rows, len(trained(tmp_path)) - len(before)) == (False, 4, trainings)
    assert_searched_once(load_settings(home=tmp_path / "here", **fields), found)
    assert Machine(fields, tmp_path / "third").ended().skipped


def test_a_machine_that_stood_still_for_longer_than_its_term_changes_nothing(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    first = Machine(fields, tmp_path / "first", stop=["trial ended", 2])
    assert first.said() == "stopped"
    os.kill(first.process.pid, signal.SIGSTOP)
    second = Machine(fields, tmp_path / "second", holder=ELSEWHERE)
    assert second.said() == "waiting"
    found = second.ended()
    first.go_on()
    os.kill(first.process.pid, signal.SIGCONT)
    kind, sentence = first.said()
    assert kind == "LeaseLostError", sentence
    settings = load_settings(home=tmp_path / "here", **fields)
    assert_searched_once(settings, found)
    again = tune(settings, returns, NIGHT, trials=4)
    assert (again.skipped, again.details["best"]) == (True, found.details["best"])
