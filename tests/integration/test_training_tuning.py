"""The hyperparameter search on a real Delta table and a real MLflow: what it finds, records, and resumes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from registry_sample import NIGHT
from sample_project.pipelines.visits import returns
from training_sample import write_training_set

from forecache.base.errors import NotFoundError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.kit import lease
from forecache.kit.lease import Lease, LeaseLostError, hold_lease
from forecache.lake.ledger import last_record
from forecache.models.tracking.client import connect_mlflow
from forecache.models.training.process import OnEvent
from forecache.models.training.spec import TrainingSpec
from forecache.plugins.tune import search as tuning
from forecache.plugins.tune.journal import JOURNAL_FILE, SearchJournal
from forecache.plugins.tune.search import finished_trials, open_study, requeue_interrupted, suggest, tune


def settings_in(folder: Path) -> Settings:
    return load_settings(home=folder / "home", project="sample_project")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_beats_or_equals_the_declaration_records_children_and_resumes(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write_training_set(settings, returns, rows_per_date=400)
    first = tune(settings, returns, NIGHT, trials=1)
    assert (first.rows, first.skipped, first.details["failed"]) == (1, False, 0)

    more = tune(settings, returns, NIGHT, trials=2)
    assert more.rows == 2
    assert more.details["best_loss"] <= more.details["declared_loss"] == first.details["declared_loss"]
    assert more.details["best_loss"] <= first.details["best_loss"]
    assert more.details["mlflow_run_id"] == first.details["mlflow_run_id"]
    client = connect_mlflow(settings)
    experiment = client.get_experiment_by_name("returns").experiment_id
    children = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{more.details['mlflow_run_id']}'", max_results=10
    )
    assert len(children) == 2
    assert {run.data.tags["forecache.trial_state"] for run in children} <= {"complete", "pruned"}
    assert all("validation_loss" in run.data.metrics for run in children)

    again = tune(settings, returns, NIGHT, trials=2)
    assert again.skipped
    assert again.details["best"] == more.details["best"]
    recorded = last_record(settings, "tune", "returns")
    assert recorded is not None
    assert recorded.rows == 2


@pytest.mark.slow
def test_a_trial_that_is_worse_than_the_others_at_the_same_epoch_is_ended_and_recorded_as_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    write_training_set(settings, returns, rows_per_date=10)
    epochs_of: list[int] = []

    def made_up(
        settings: Settings, spec: TrainingSpec, *, on_event: OnEvent, threads: int, gpu: int | None, lease: Lease
    ) -> dict[str, Any]:
        number = len(epochs_of)
        epochs_of.append(0)
        for epoch in range(5):
            epochs_of[number] = epoch + 1
            on_event({"event": "epoch", "epoch": epoch, "validation_loss": 9.0 if number == 4 else 0.5 / (1 + epoch)})
        return {"validation_loss": 0.1}

    monkeypatch.setattr("forecache.plugins.torch.launch.run_torchrun", made_up)
    monkeypatch.setattr(tuning.os, "cpu_count", lambda: 1)
    found = tune(settings, returns, NIGHT, trials=5)
    assert epochs_of == [5, 5, 5, 5, 3]
    assert (found.details["trials"], found.details["pruned"], found.details["parallel"]) == (5, 1, 1)
    client = connect_mlflow(settings)
    experiment = client.get_experiment_by_name("returns").experiment_id
    [ended] = client.search_runs([experiment], "tags.`forecache.trial_state` = 'pruned'")
    assert (ended.info.status, ended.data.metrics["validation_loss"]) == ("KILLED", 9.0)


def test_trials_that_ran_when_the_process_died_are_tried_again_with_the_same_values(tmp_path: Path) -> None:
    study = open_study(tmp_path, returns)
    tried = suggest(study.ask(), returns.training)
    assert tried == returns.training  # the declaration comes first

    after = open_study(tmp_path, returns)  # as another process would
    requeue_interrupted(after)
    assert finished_trials(after) == []
    assert suggest(after.ask(), returns.training) == tried


@pytest.mark.parametrize("declared", [{"weight_decay": 0.0}, {"weight_decay": 0.5}, {"learning_rate": 1e-6}])
def test_the_ranges_include_the_declaration_and_more(tmp_path: Path, declared: dict[str, float]) -> None:
    pipeline = replace(returns, training=replace(returns.training, **declared))
    study = open_study(tmp_path, pipeline)
    first, second = (suggest(study.ask(), pipeline.training) for _ in range(2))
    assert first == pipeline.training
    assert (second.learning_rate, second.weight_decay) != (first.learning_rate, first.weight_decay)


def test_a_search_killed_before_its_first_trial_still_begins_with_the_declaration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("optuna.Study.enqueue_trial", _killed)
        with pytest.raises(KeyboardInterrupt):
            open_study(tmp_path, returns)
    assert suggest(open_study(tmp_path, returns).ask(), returns.training) == returns.training


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_search_goes_on_after_an_outage_of_the_bucket_that_outlasted_its_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE", replace(lease.LEASE, every_s=600.0))
    shared = LocalFolder(tmp_path / "shared")
    (tmp_path / JOURNAL_FILE).write_bytes(b"a trial\n")
    with hold_lease(shared, "training", action="tuning returns") as held:
        term_s, now = lease.TERM_S, lease._now
        monkeypatch.setattr(lease, "_now", lambda: now() + term_s)
        with pytest.raises(LeaseLostError, match="its term ended without a renewal"):
            held.check()
        SearchJournal(tmp_path, shared, held).share()
    assert (shared.root / JOURNAL_FILE).read_bytes() == b"a trial\n"


def test_without_a_training_set_the_error_names_the_table(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="training_set_returns"):
        tune(settings_in(tmp_path), returns, NIGHT)
