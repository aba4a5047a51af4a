"""The tuning job: a search on a real training set and a real MLflow, as one run of Dagster."""

from pathlib import Path

import dagster as dg
import pytest
from sample_project.pipelines.visits import returns
from training_sample import write_training_set

from forecache.base.settings import load_settings
from forecache.lake.ledger import last_record
from forecache.models.tracking.client import connect_mlflow
from forecache.plugins.tune.orchestration import build_tuning_job, tuning_job_name
from resources.settings_resource import SettingsResource


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_job_is_one_run_whose_trials_are_children_in_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    settings = load_settings(project="sample_project")
    write_training_set(settings, returns, rows_per_date=200)
    resource = SettingsResource(home=str(settings.home_path), project="sample_project")
    done = build_tuning_job(returns).execute_in_process(
        run_config=dg.RunConfig(ops={"tune_returns": {"config": {"trials": 2}}}), resources={"settings": resource}
    )
    assert done.success
    assert done.job_def.name == tuning_job_name(returns) == "returns_tuning"
    [output] = [event for event in done.all_events if event.is_successful_output]
    metadata = output.step_output_data.metadata
    assert metadata["trials"].value == 2
    assert "validation loss" in metadata["best"].value
    client, parent = connect_mlflow(settings), metadata["mlflow_run_id"].value
    experiment = client.get_experiment_by_name("returns").experiment_id
    assert len(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")) == 2
    recorded = last_record(settings, "tune", "returns")
    assert recorded is not None
    assert recorded.run_id == done.run_id
