"""Approval in Dagster: the gate's check says that a model waits, and a job with a name in its configuration decides."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import registry_sample as sample
from sample_project.pipelines.visits import returns
from training_sample import write_training_set

from assets.model import GATE, GATE_WARNINGS, build_model, candidate_name
from forecache.base.settings import Settings, load_settings
from forecache.models.registry import model_versions as models
from forecache.models.registry.alias_moves import promote_version
from forecache.models.registry.promotions import promotions
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.training import launch as launch_training
from jobs.definitions import pipeline_definitions
from jobs.training import build_approval_job
from resources.settings_resource import SettingsResource

CAREFUL = replace(returns, gate=replace(returns.gate, approval=True))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dg.ExecuteInProcessResult]:
    """A home whose model waits for approval, and the run of the asset that left it so."""
    settings = load_settings(home=tmp_path_factory.mktemp("approval") / "home")
    write_training_set(settings, CAREFUL)
    training = sample.made_up_training(settings, CAREFUL, sample.GOOD, training_version=2)

    @dg.asset(name=candidate_name(CAREFUL))
    def candidate() -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata={"as_of": str(training.nights[0])})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch_training, "find_training", lambda *_: training)
        run = dg.materialize([candidate, build_model(CAREFUL)], resources=resources(settings))
    return settings.home_path, run


def resources(settings: Settings) -> dict[str, Any]:
    return {"settings": SettingsResource(home=str(settings.home_path), project="sample_project")}


@pytest.fixture
def waiting(settings: Settings, prepared: tuple[Path, Any]) -> Settings:
    shutil.copytree(prepared[0], settings.home_path)
    return settings


def launch(settings: Settings, **config: Any) -> dg.ExecuteInProcessResult:
    return build_approval_job(CAREFUL).execute_in_process(
        run_config={"ops": {"decide_returns": {"config": config}}}, resources=resources(settings), raise_on_error=False
    )


def test_the_gates_check_shows_table_plots_and_how_to_approve(prepared: tuple[Path, dg.ExecuteInProcessResult]) -> None:
    found = {each.check_name: each for each in prepared[1].get_asset_check_evaluations()}
    assert set(found) == {GATE, GATE_WARNINGS}
    evaluation, warnings = found[GATE], found[GATE_WARNINGS]
    assert (warnings.passed, warnings.severity) == (True, dg.AssetCheckSeverity.WARN)
    assert evaluation.passed
    assert "returns 1 passed and waits for approval: roc_auc" in (evaluation.description or "")
    assert "job returns_approve" in str(evaluation.metadata["approval"].value)
    assert "| calibration |" in str(evaluation.metadata["verdict"].value)
    assert "![gains](data:image/svg+xml" in str(evaluation.metadata["plots"].value)


def test_a_person_approves_in_the_launchpad_by_name(waiting: Settings) -> None:
    assert models.find_champion(waiting, CAREFUL) is None
    run = launch(waiting, confirmed_by="ann", reason="looked at the slices")
    assert run.success
    assert models.champion(waiting, CAREFUL).version == 1
    entry = promotions(waiting, "returns")[-1]
    assert (entry.action, entry.actor, entry.verdict) == ("promote", "dagster:ann", "passed")
    assert (entry.reason, entry.run_id) == ("looked at the slices", run.run_id)
    (observed,) = [event for event in run.all_events if event.is_asset_observation]
    assert observed.asset_key == dg.AssetKey("model_returns")


def test_a_person_rejects_and_the_gate_does_not_ask_again(waiting: Settings) -> None:
    assert launch(waiting, confirmed_by="ann", decision="reject", reason="unfair").success
    assert models.find_champion(waiting, CAREFUL) is None
    assert models.model_version(waiting, CAREFUL, 1).gate == "rejected"
    entry = promotions(waiting, "returns")[-1]
    assert (entry.action, entry.candidate, entry.to_version, entry.verdict) == ("reject", 1, None, "failed")
    failed = launch(waiting, confirmed_by="ann")
    assert not failed.success
    (failure,) = [event for event in failed.all_events if event.is_step_failure]
    assert "No version of model 'returns' waits for approval" in str(failure.step_failure_data.error_display_string)


def test_a_champion_since_the_verdict_stops_the_approval_until_the_job_has_judged_again(waiting: Settings) -> None:
    training = sample.made_up_training(waiting, CAREFUL, sample.SLIGHTLY_WORSE, training_version=2)
    other = int(register_trained_model(waiting, CAREFUL, training).details["model_version"])
    run_gate(waiting, CAREFUL, other, actor="test")
    promote_version(waiting, CAREFUL, other, actor="test")
    refused = launch(waiting, confirmed_by="ann")
    assert not [event for event in refused.all_events if event.is_step_up_for_retry]  # another try would not help
    (failure,) = [event for event in refused.all_events if event.is_step_failure]
    said = str(failure.step_failure_data.error_display_string)
    assert "judged without a champion, and the champion is 2 now" in said
    assert "the decision `evaluate` of the job returns_approve" in said
    assert models.champion(waiting, CAREFUL).version == 2

    again = launch(waiting, confirmed_by="ann", decision="evaluate")
    assert again.success
    (observed,) = [event for event in again.all_events if event.is_asset_observation]
    metadata = observed.asset_observation_data.asset_observation.metadata
    assert "returns 1 passed and waits for approval" in str(metadata["reason"].value)
    assert metadata["champion"].value == "2 before, 2 after"
    assert launch(waiting, confirmed_by="ann").success
    assert models.champion(waiting, CAREFUL).version == 1


def test_an_outdated_verdict_is_approved_where_the_person_says_so(waiting: Settings) -> None:
    training = sample.made_up_training(waiting, CAREFUL, sample.SLIGHTLY_WORSE, training_version=2)
    other = int(register_trained_model(waiting, CAREFUL, training).details["model_version"])
    run_gate(waiting, CAREFUL, other, actor="test")
    promote_version(waiting, CAREFUL, other, actor="test")
    assert launch(waiting, confirmed_by="ann", outdated_verdict=True).success
    assert promotions(waiting, "returns")[-1].outdated_verdict


def test_nobody_decides_without_a_name(waiting: Settings) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="confirmed_by"):
        launch(waiting)
    assert not launch(waiting, confirmed_by="").success


def test_the_job_is_there_where_the_gate_asks_for_approval() -> None:
    careful, plain = (
        {job.name for job in pipeline_definitions(pipeline).jobs or ()} for pipeline in (CAREFUL, returns)
    )
    assert careful - plain == {"returns_approve"}
