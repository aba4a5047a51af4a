"""A run that goes on on another machine: its steps find what earlier ones made, and need no file of their disk."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from estimator_project.pipelines.trees import churn_trees
from registry_sample import NIGHT
from training_sample import write_training_set

from assets.model import build_candidate, build_model, candidate_name
from forecache.base.settings import Settings, load_settings
from forecache.declare import Trainable
from forecache.lake.ledger import all_records, last_record
from forecache.models.registry import model_versions as models
from resources.settings_resource import SettingsResource

pytestmark = pytest.mark.slow


def machine(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A machine with an empty home beside others; the lake, MLflow and the files of trainings are theirs, too."""
    shared = {
        "LAKE": folder / "lake",
        "TRAINING_CHECKPOINTS": folder / "training",
        "MLFLOW_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_ARTIFACTS": folder,
    }
    for variable, value in {"HOME": folder / name, "PROJECT": "estimator_project", **shared}.items():
        monkeypatch.setenv(f"FORECACHE_{variable}", str(value))
    return load_settings()


@dg.asset(name=churn_trees.training_table)
def training_set() -> dg.MaterializeResult[Any]:
    return dg.MaterializeResult(metadata={"as_of": str(NIGHT)})


def run_steps(instance: dg.DagsterInstance, settings: Settings, *steps: str, pipeline: Trainable = churn_trees) -> None:
    assets = [training_set, build_candidate(pipeline), build_model(pipeline)]
    resource = SettingsResource(home=str(settings.home_path), project=settings.project)
    dg.materialize(assets, instance=instance, selection=list(steps), resources={"settings": resource})


def test_a_run_that_failed_after_its_training_is_re_executed_from_there_on_a_machine_with_an_empty_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with dg.instance_for_test() as instance:  # stands for the database that all machines share
        first = machine(tmp_path, "first", monkeypatch)
        write_training_set(first, churn_trees)
        run_steps(instance, first, churn_trees.training_table, candidate_name(churn_trees))
        trained = last_record(first, "train", churn_trees.name)
        write_training_set(first, churn_trees, seed=1)  # a newer one, which the candidate has not seen
        shutil.rmtree(first.home_path)
        assert not list(Path(instance.storage_directory()).rglob("candidate_*")), "nothing is pickled"
        second = machine(tmp_path, "second", monkeypatch)
        changed = replace(churn_trees, training=replace(churn_trees.training, seed=churn_trees.training.seed + 1))
        with pytest.raises(dg.Failure, match="has changed since it was trained"):
            run_steps(instance, second, "model_churn_trees", pipeline=changed)
        run_steps(instance, second, "model_churn_trees")
        assert all_records(second, "train", churn_trees.name) == [trained], "only the candidate's step trains"
        instance.report_runless_asset_event(dg.AssetMaterialization(candidate_name(churn_trees)))  # as the UI does
        with pytest.raises(dg.Failure, match="names no as-of date"):
            run_steps(instance, second, "model_churn_trees")
    assert trained is not None
    [registered] = models.list_models(second, churn_trees)
    assert registered.tags["as_of"] == str(NIGHT)
    assert registered.tags["inputs"].startswith(trained.inputs)
    assert trained.details["weights_digest"][:16] in registered.tags["inputs"]
