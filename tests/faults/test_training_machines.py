"""Trainings on machines that share a lake and a registry, and nothing else: one trains, the others take its result."""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from estimator_project.pipelines.trees import churn_trees
from registry_sample import NIGHT
from sample_project.pipelines.visits import returns
from store_services import minio_server
from taken_lease import take_over_lease
from training_machine import FITTING, be_machine
from training_sample import sample_spec, write_training_set
from warm import processes, start
from warm_agents import warm_agents

from forecache.base.errors import NotFoundError
from forecache.base.folders import LocalFolder
from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import training_step
from forecache.declare import Training
from forecache.kit import lease
from forecache.kit.delta.tables import open_table
from forecache.kit.lease import LeaseLostError, read_leases
from forecache.models.registry.model_versions import list_models
from forecache.models.registry.promotions import promotions
from forecache.models.registry.register import register_trained_model
from forecache.models.tracking.client import connect_mlflow
from forecache.models.training.launch import train
from forecache.models.training.process import lock_run, read_events
from forecache.models.training.spec import METRICS_FILE, MODEL_FILES, RESULT_FILE
from forecache.plugins.torch.launch import run_torchrun

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]

ELSEWHERE = {"host": "gpu-7", "machine": "another boot"}


class Machine:
    """A process with an empty home; see `be_machine`."""

    def __init__(self, fields: dict[str, Any], home: Path, **todo: Any) -> None:
        self._pipe, theirs = processes().Pipe()
        self.process = start(be_machine, {**fields, "home": str(home)}, todo, theirs)
        theirs.close()

    def said(self) -> Any:
        return self._pipe.recv()

    def go_on(self) -> None:
        self._pipe.send("go on")

    def died(self) -> None:
        self.process.join(200)
        assert self.process.exitcode == -signal.SIGKILL

    def ended(self) -> tuple[StageResult, int, int]:
        """The result of the training, the registered version, and the champion."""
        said = self.said()
        assert isinstance(said, dict), said
        return said["trained"], said["version"], said["champion"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine threads of a fit wait for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio") / "minio", "cloud") as found:
        yield found


@pytest.fixture(params=["lake", "bucket", "folder", "home"])
def fields(request: pytest.FixtureRequest, tmp_path: Path, options: dict[str, str]) -> dict[str, Any]:
    """What all machines are told, by where a training lies: in the lake, in another bucket, in a folder, or in the
    home of the only machine."""
    name, has_bucket = tmp_path.name, request.param != "home"
    places = {"bucket": f"s3://cloud/{name}/checkpoints", "folder": str(tmp_path / "shared")}
    where = places.get(request.param, "")
    found = {
        "project": "estimator_project",
        "lake": f"s3://cloud/{name}/lake" if has_bucket else str(tmp_path / "lake"),
        "storage_options": options if has_bucket else {},
        "training_checkpoints": where,
        "mlflow_uri": f"sqlite:///{tmp_path}/mlflow.db",
        "mlflow_artifacts": (tmp_path / "artifacts").as_uri(),
    }
    settings = load_settings(home=tmp_path / "first", **found)
    write_training_set(settings, churn_trees)
    connect_mlflow(settings).search_experiments()  # two that make its tables at once fail
    return found


def rows_of(settings: Settings) -> list[dict[str, Any]]:
    """The rows of the ledger about trainings."""
    rows = open_table(settings, "stage_ledger").to_pyarrow_table().to_pylist()
    return [json.loads(row["details"]) for row in rows if row["stage"] == "train"]


def assert_done_once(settings: Settings) -> None:
    """One MLflow run, one version, one decision, one training in the ledger."""
    client = connect_mlflow(settings)
    [experiment] = [each for each in client.search_experiments() if each.name == churn_trees.name]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert [version.version for version in list_models(settings, churn_trees)] == [1]
    assert [(row.from_version, row.to_version) for row in promotions(settings, churn_trees.name)] == [(None, 1)]
    assert [row["mlflow_run_id"] for row in rows_of(settings)] == [run.info.run_id]


def assert_equals_one_of_its_own(trained: StageResult, fields: dict[str, Any], home: Path) -> None:
    """Its model lies in its own folder and is that of a machine that no other disturbed."""
    folder = Path(trained.details["run_dir"])
    [model] = [folder / name for name in MODEL_FILES.values() if (folder / name).is_file()]
    assert hashlib.sha256(model.read_bytes()).hexdigest() == trained.details["weights_digest"]
    alone = load_settings(**{**fields, "home": home, "training_checkpoints": str(home / "alone")})
    whole = train(alone, churn_trees, NIGHT)
    assert not whole.skipped
    assert trained.details["weights_digest"] == whole.details["weights_digest"]


def test_the_second_machine_waits_for_the_first_and_takes_its_result_and_its_version(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    first = Machine(fields, tmp_path / "first", stop="result written", holder=ELSEWHERE)
    assert first.said() == "result written"
    home = tmp_path / ("second" if fields["storage_options"] else "first")
    second = Machine(fields, home)
    assert second.said() == "waiting"
    first.go_on()
    (trained, *_), (taken, version, champion) = first.ended(), second.ended()
    assert (trained.skipped, taken.skipped, version, champion) == (False, True, 1, 1)
    assert {**taken.details, "run_dir": trained.details["run_dir"]} == json.loads(json.dumps(trained.details))
    assert Path(taken.details["run_dir"]).is_relative_to(home)
    settings = load_settings(home=tmp_path / "here", **fields)
    assert_done_once(settings)
    assert_equals_one_of_its_own(taken, fields, tmp_path / "alone")


@pytest.mark.parametrize("fields", ["lake"], indirect=True)
@pytest.mark.parametrize("step", [FITTING, *training_step.names])
def test_a_machine_that_is_lost_is_taken_over_with_its_mlflow_run_and_its_cost(
    fields: dict[str, Any], tmp_path: Path, step: str
) -> None:
    Machine(fields, tmp_path / "first", die=step).died()
    trained, version, champion = Machine(fields, tmp_path / "second").ended()
    assert (trained.skipped, version, champion) == (False, 1, 1)
    assert trained.details["cost"]["attempts"] == (1 if step == "result shared" else 2)
    again, *_ = Machine(fields, tmp_path / "third").ended()
    assert again.skipped
    settings = load_settings(home=tmp_path / "here", **fields)
    assert_done_once(settings)
    assert_equals_one_of_its_own(again, fields, tmp_path / "alone")


@pytest.mark.parametrize("fields", ["lake"], indirect=True)
def test_a_machine_that_stood_still_for_longer_than_its_term_leaves_nothing_of_its_own(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    first = Machine(fields, tmp_path / "first", stop="result written", term_s=9.0)
    assert first.said() == "result written"
    os.kill(first.process.pid, signal.SIGSTOP)
    second = Machine(fields, tmp_path / "second", term_s=9.0)
    assert second.said() == "waiting"
    trained, version, champion = second.ended()
    first.go_on()
    os.kill(first.process.pid, signal.SIGCONT)
    kind, sentence = first.said()
    assert (kind, "was lost" in sentence) == ("LeaseLostError", True)
    assert (trained.skipped, version, champion) == (False, 1, 1)
    assert_done_once(load_settings(home=tmp_path / "here", **fields))


@pytest.mark.parametrize("fields", ["lake"], indirect=True)
def test_a_training_is_registered_by_a_machine_that_did_not_train(fields: dict[str, Any], tmp_path: Path) -> None:
    first, second = (load_settings(home=tmp_path / home, **fields) for home in ("first", "second"))
    trained = train(first, churn_trees, NIGHT)
    shutil.rmtree(first.home_path)
    assert register_trained_model(second, churn_trees, trained).details["model_version"] == 1
    assert [version.version for version in list_models(second, churn_trees)] == [1]


@pytest.mark.parametrize("fields", ["home"], indirect=True)
def test_a_machine_that_cannot_find_the_files_of_a_training_says_so(fields: dict[str, Any], tmp_path: Path) -> None:
    first, second = (load_settings(home=tmp_path / home, **fields) for home in ("first", "second"))
    trained = train(first, churn_trees, NIGHT)
    shutil.rmtree(first.home_path)
    with pytest.raises(NotFoundError, match="are not on this machine.*FORECACHE_TRAINING_CHECKPOINTS"):
        register_trained_model(second, churn_trees, trained)


def test_a_trial_of_a_search_is_locked_by_the_lease_of_the_search(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", project="sample_project")
    fields = {"inputs": "", "training": returns.training, "checkpoints": str(tmp_path / "shared")}
    search = sample_spec(settings, returns, tmp_path / "search", 10, **fields)
    trial = replace(search, run_dir=str(tmp_path / "search" / "1"), checkpoints=f"{search.checkpoints}/1")
    with (
        lock_run(settings, search, report=pytest.fail) as held,
        lock_run(settings, trial, report=pytest.fail, lease=held.lease) as locked,
    ):
        assert locked.lease is held.lease
        assert [each.name for each in read_leases(LocalFolder(tmp_path / "shared"), is_deep=True)] == ["training"]


def test_a_training_that_another_machine_has_taken_over_is_killed_without_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE", replace(lease.LEASE, every_s=0.3))
    settings = load_settings(home=tmp_path / "home", project="sample_project", device="cpu")
    spec = sample_spec(
        settings,
        returns,
        settings.training_path / "run",
        2_000,
        inputs="lease test",
        training=Training(epochs=400, batch_size=64, patience=1000),
        checkpoints=str(tmp_path / "shared"),
    )

    def take_over_at_the_second_epoch(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 1:
            assert take_over_lease(LocalFolder(tmp_path / "shared")).name == "training"

    with (
        warm_agents("forecache.models.training.process"),
        pytest.raises(LeaseLostError, match="was lost: it was taken over by process .* on gpu-7"),
    ):
        run_torchrun(settings, spec, on_event=take_over_at_the_second_epoch)
    assert not (spec.folder / RESULT_FILE).exists()
    assert "interrupted" not in {event["event"] for event in read_events(spec.folder / METRICS_FILE)}
