"""The hyperparameter search on a real Delta table and a real MLflow: what it finds, records, and resumes."""

from pathlib import Path

import pytest
from registry_sample import NIGHT
from sample_project.pipelines.visits import returns
from training_sample import write_training_set

from forecache.errors import ConflictError, NotFoundError
from forecache.lake.ledger import last_record
from forecache.registry.models import tracking
from forecache.settings import Settings, load_settings
from forecache.training import tuning
from forecache.training.tuning import tune


def settings_in(folder: Path) -> Settings:
    return load_settings(home=folder / "home", project="sample_project")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_beats_or_equals_the_declaration_records_children_and_resumes(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write_training_set(settings, returns, rows_per_date=400)
    first = tune(settings, returns, NIGHT, trials=2)
    assert (first.rows, first.skipped, first.details["failed"]) == (2, False, 0)
    assert first.details["best_loss"] <= first.details["declared_loss"]

    more = tune(settings, returns, NIGHT, trials=3)
    assert more.rows == 3
    assert more.details["best_loss"] <= first.details["best_loss"]
    assert more.details["mlflow_run_id"] == first.details["mlflow_run_id"]
    client = tracking(settings)
    experiment = client.get_experiment_by_name("returns").experiment_id
    children = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{more.details['mlflow_run_id']}'", max_results=10
    )
    assert len(children) == 3
    assert {run.data.tags["forecache.trial_state"] for run in children} <= {"complete", "pruned"}
    assert all("validation_loss" in run.data.metrics for run in children)

    again = tune(settings, returns, NIGHT, trials=3)
    assert again.skipped
    assert again.details["best"] == more.details["best"]
    recorded = last_record(settings, "tune", "returns")
    assert recorded is not None
    assert recorded.rows == 3


def test_trials_that_ran_when_the_process_died_are_tried_again_with_the_same_values(tmp_path: Path) -> None:
    study = tuning._open_study(tmp_path, returns)
    trial = study.ask()
    tried = tuning._suggest(trial, returns.training)
    assert tried == returns.training  # the declaration comes first

    after = tuning._open_study(tmp_path, returns)  # as another process would
    tuning._requeue_interrupted(after)
    assert tuning._finished(after) == []
    assert tuning._suggest(after.ask(), returns.training) == tried


def test_two_searches_on_the_same_inputs_do_not_run_at_once(tmp_path: Path) -> None:
    with (
        tuning._only_one(tmp_path),
        pytest.raises(ConflictError, match="Another process is tuning"),
        tuning._only_one(tmp_path),
    ):
        pass


def test_without_a_training_set_the_error_names_the_table(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="training_set_returns"):
        tune(settings_in(tmp_path), returns, NIGHT)
