"""Registration, the gate, the champion alias and the promotion ledger, on a real MLflow and real Delta tables."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import registry_sample as sample
from deltalake import DeltaTable, write_deltalake
from sample_project.pipelines.visits import basket, returns
from second_process import running
from training_sample import write_training_set

from forecache.base.errors import CheckError, ConflictError, NotFoundError
from forecache.base.settings import Settings, load_settings
from forecache.cli.commands.models import show_verdict
from forecache.cli.main import main
from forecache.declare import Baseline, Pipeline
from forecache.lake.ledger import last_record
from forecache.models.registry import alias_moves as moves
from forecache.models.registry import model_versions as models
from forecache.models.registry import run_gate as gate_module
from forecache.models.registry.gate.examples import open_model, read_examples, score_features
from forecache.models.registry.gate.gate_checks import Check
from forecache.models.registry.gate.metric_judge import judge_of
from forecache.models.registry.gate.verdicts import load_gate_plots
from forecache.models.registry.promotions import promotions
from forecache.models.registry.register import load_evaluation, register_trained_model
from forecache.models.registry.run_gate import GateVerdict, run_gate
from forecache.operations.approval import judge_version
from forecache.operations.rollback import roll_back_model
from forecache.plugins.challengers.shadow import find_challenger, name_challenger
from forecache.plugins.model_reports.report import write_report


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with training sets and an empty MLflow database, to be copied: creating the database takes seconds."""
    settings = load_settings(home=tmp_path_factory.mktemp("registry") / "home")
    write_training_set(settings, returns)
    write_training_set(settings, basket)
    models.connect_mlflow(settings)
    return settings.home_path


@pytest.fixture
def lake(settings: Settings, prepared: Path) -> Settings:
    """Settings whose lake has training sets; one MLflow database a test."""
    shutil.copytree(prepared, settings.home_path)
    return settings


Step = Callable[[Settings], object]
After = Callable[..., Settings]


@pytest.fixture(scope="module")
def homes(prepared: Path) -> dict[tuple[Step, ...], Path]:
    """Homes to be copied, by what was done in them."""
    return {(): prepared}


@pytest.fixture
def after(settings: Settings, homes: dict[tuple[Step, ...], Path], tmp_path_factory: pytest.TempPathFactory) -> After:
    """Settings of a home in which these steps were taken; several tests begin with the same, which are taken once."""

    def taken(*steps: Step) -> Settings:
        if steps in homes:
            shutil.copytree(homes[steps], settings.home_path)
        else:
            steps[-1](taken(*steps[:-1]))
            homes[steps] = shutil.copytree(settings.home_path, tmp_path_factory.mktemp("after") / "home")
        return settings

    return taken


def registered(settings: Settings, weights: tuple[float, ...], pipeline: Pipeline = returns) -> int:
    training = sample.made_up_training(settings, pipeline, weights, training_version=2)
    return int(register_trained_model(settings, pipeline, training).details["model_version"])


def judged(settings: Settings, weights: tuple[float, ...], pipeline: Pipeline = returns) -> GateVerdict:
    return run_gate(settings, pipeline, registered(settings, weights, pipeline), actor="test")


def good_registered(settings: Settings) -> None:
    registered(settings, sample.GOOD)


def good(settings: Settings) -> None:
    judged(settings, sample.GOOD)


def slightly_worse(settings: Settings) -> None:
    judged(settings, sample.SLIGHTLY_WORSE)


@pytest.mark.slow
def test_first_model_that_passes_becomes_champion_with_a_ledger_row(lake: Settings) -> None:
    with pytest.raises(NotFoundError, match="'returns' has no champion yet"):
        models.champion(lake, returns)
    verdict = judged(lake, sample.GOOD)
    assert verdict.passed
    assert (verdict.champion_before, verdict.champion_after) == (None, 1)
    champion = models.champion(lake, returns)
    assert (champion.version, champion.gate, champion.features) == (1, "passed", returns.feature_names)
    [entry] = promotions(lake, "returns")
    assert (entry.action, entry.actor, entry.from_version, entry.to_version) == ("gate", "test", None, 1)
    assert (entry.training_table, entry.training_version) == ("training_set_returns", 2)
    assert entry.metrics["roc_auc"] == pytest.approx(verdict.metrics["roc_auc"])


@pytest.mark.slow
def test_candidate_worse_than_the_champion_stays_registered_with_the_reason(after: After) -> None:
    lake = after(good)
    verdict = judged(lake, sample.SLIGHTLY_WORSE)
    assert not verdict.passed
    assert "worse than champion 1" in verdict.line
    assert verdict.champion["roc_auc"] > verdict.metrics["roc_auc"]
    assert "Champion 1, test" in write_report(lake, returns, 2).read_text()
    assert models.champion(lake, returns).version == 1
    candidate = models.model_version(lake, returns, 2)
    assert (candidate.gate, candidate.tags["gate_reason"]) == ("failed", "; ".join(verdict.reasons))
    assert [entry.verdict for entry in promotions(lake, "returns")] == ["passed", "failed"]


@pytest.mark.slow
def test_the_verdict_is_a_table_and_plots_of_the_run(after: After) -> None:
    lake = after(slightly_worse)
    verdict = judged(lake, sample.GOOD)
    version = models.model_version(lake, returns, 2)
    client = models.connect_mlflow(lake)
    there = {file.path for file in client.list_artifacts(version.run_id, "gate")}
    assert there == {"gate/checks.csv", "gate/verdict.json", "gate/gains.svg", "gate/shift.svg"}
    table = pd.read_csv(client.download_artifacts(version.run_id, "gate/checks.csv"))
    assert list(table["check"]) == [check.name for check in verdict.checks]
    assert {"calibration", "champion", "prediction_shift", "schema"} <= set(table["check"])
    compared = table.set_index("check").loc["champion"]
    assert compared["low"] < compared["value"] < compared["high"]
    assert client.get_run(version.run_id).data.tags["gate_line"] == verdict.line
    plots = load_gate_plots(lake, version)
    assert set(plots) == {"gains", "shift"}
    assert "gain in roc_auc" in plots["gains"]
    assert "candidate" in plots["shift"]


def test_candidate_below_the_floor_leaves_the_pipeline_without_a_champion(lake: Settings) -> None:
    verdict = judged(lake, sample.USELESS)
    failed = {check.name for check in verdict.checks if not check.passed}
    assert failed == {"floor:roc_auc", "baseline", "constant"}
    assert models.find_champion(lake, returns) is None


def test_judging_again_changes_nothing(lake: Settings) -> None:
    first = judged(lake, sample.GOOD)
    assert run_gate(lake, returns, 1, actor="again") == first
    assert len(promotions(lake, "returns")) == 1


def test_registering_again_gives_the_same_version(lake: Settings) -> None:
    training = sample.made_up_training(lake, returns, sample.GOOD, training_version=2)
    first, second = register_trained_model(lake, returns, training), register_trained_model(lake, returns, training)
    assert (first.skipped, second.skipped) == (False, True)
    assert first.details == second.details
    assert len(models.list_models(lake, returns)) == 1
    recorded = last_record(lake, "register", "returns")
    assert recorded is not None
    assert recorded.details["model_version"] == 1


_REGISTERS_SLOWLY = """
import pickle, sys, time
from pathlib import Path
from sample_project.pipelines.visits import returns
from forecache.models.registry import register as module
from forecache.base.settings import load_settings
home, training, go = (Path(each) for each in sys.argv[1:])
honest = module._log_and_register

def late(*arguments):
    print(flush=True)
    while not go.exists():
        time.sleep(0.005)
    return honest(*arguments)

module._log_and_register = late
assert not module.register_trained_model(load_settings(home=home), returns, pickle.loads(training.read_bytes())).skipped
"""


def test_two_processes_that_register_a_training_make_one_version(
    lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = sample.made_up_training(lake, returns, sample.GOOD, training_version=2)
    (tmp_path / "training").write_bytes(pickle.dumps(training))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    go = tmp_path / "go"

    def told(message: str, _: float | None) -> None:
        if message.startswith("waiting for process"):
            go.touch()

    with running(_REGISTERS_SLOWLY, lake.home_path, tmp_path / "training", go) as other:
        second = register_trained_model(lake, returns, training, progress=told)
        go.touch()
        assert other.wait(60) == 0
    assert (second.skipped, second.details["model_version"]) == (True, 1)
    assert len(models.list_models(lake, returns)) == 1


def test_a_decision_cut_short_after_the_ledger_is_finished_by_the_next_call(
    after: After, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, version = after(good_registered), 1

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gate_module, "finish_move", killed)
        with pytest.raises(KeyboardInterrupt):
            run_gate(lake, returns, version, actor="test")
    assert models.find_champion(lake, returns) is None
    assert run_gate(lake, returns, version, actor="test").passed
    assert models.champion(lake, returns).version == version
    assert len(promotions(lake, "returns")) == 1


def test_rollback_returns_to_the_champion_before_and_the_gate_does_not_undo_it(after: After) -> None:
    lake = after(slightly_worse, good)
    assert models.champion(lake, returns).version == 2
    moved = roll_back_model(lake, returns, actor="person", reason="complaints").entry
    assert moved is not None
    assert (moved.from_version, moved.to_version, moved.to_published) == (2, 1, None)
    assert models.champion(lake, returns).version == 1
    assert models.model_version(lake, returns, 2).gate == "rolled_back"
    run_gate(lake, returns, 2, actor="nightly")
    stricter = replace(returns, gate=replace(returns.gate, floors={"roc_auc": 0.61}))
    run_gate(lake, stricter, 2, actor="nightly")
    assert models.champion(lake, returns).version == 1
    with pytest.raises(NotFoundError, match="first champion"):
        roll_back_model(lake, returns, actor="person")
    moves.promote_version(lake, returns, 2, actor="person", reason="it was the data")
    assert models.champion(lake, returns).version == 2
    assert models.model_version(lake, returns, 2).gate == "passed"
    actions = [(entry.action, entry.verdict) for entry in promotions(lake, "returns")]
    assert actions[2:] == [(action, verdict) for action in ("rollback", "promote") for verdict in ("begun", "passed")]


def test_promote_refuses_what_failed_and_what_is_champion_already(after: After) -> None:
    lake = after(good)
    judged(lake, sample.USELESS)
    with pytest.raises(CheckError, match="version 2 did not pass the gate: roc_auc"):
        moves.promote_version(lake, returns, 2, actor="person")
    with pytest.raises(ConflictError, match="champion already"):
        moves.promote_version(lake, returns, 1, actor="person")
    with pytest.raises(NotFoundError, match=r"no version 9\. Its versions: 2, 1"):
        moves.promote_version(lake, returns, 9, actor="person")


def test_with_approval_a_passing_model_waits_for_a_person(lake: Settings) -> None:
    careful = replace(returns, gate=replace(returns.gate, approval=True))
    verdict = judged(lake, sample.GOOD, careful)
    assert verdict.passed
    assert verdict.champion_after is None
    assert models.model_version(lake, careful, 1).gate == "awaiting_approval"
    moves.promote_version(lake, careful, 1, actor="person")
    assert models.champion(lake, careful).version == 1
    assert [entry.verdict for entry in promotions(lake, "returns")] == ["awaiting_approval", "begun", "passed"]


CAREFUL = replace(returns, gate=replace(returns.gate, approval=True))
BETTER_THAN_THE_FIRST, WORSE_THAN_THE_LAST = (-0.03, 0.0, 0.8, 0.7, 0.05), (-0.03, 0.0, 0.8, 0.7, 0.5)


def good_waits(lake: Settings) -> None:
    judged(lake, sample.GOOD, CAREFUL)


def first_promoted(lake: Settings) -> None:
    judged(lake, sample.SLIGHTLY_WORSE, CAREFUL)
    moves.promote_version(lake, CAREFUL, 1, actor="person")


def better_waits_since_before_the_champion(lake: Settings) -> None:
    """Version 2 waits since it was judged against champion 1; version 3 is the champion now."""
    _judged_before_the_champion(lake, BETTER_THAN_THE_FIRST)


def worse_waits_since_before_the_champion(lake: Settings) -> None:
    """The same, with a version 2 that is worse than champion 3."""
    _judged_before_the_champion(lake, WORSE_THAN_THE_LAST)


def _judged_before_the_champion(lake: Settings, weights: tuple[float, ...]) -> None:
    judged(lake, weights, CAREFUL)
    judged(lake, sample.GOOD, CAREFUL)
    moves.promote_version(lake, CAREFUL, 3, actor="person")


@pytest.mark.slow
def test_a_version_that_waits_with_a_verdict_against_another_champion_is_promoted_only_where_that_is_asked_for(
    after: After,
) -> None:
    lake = after(first_promoted, better_waits_since_before_the_champion)
    with pytest.raises(CheckError, match="judged against champion 1, and the champion is 3 now") as refused:
        moves.promote_version(lake, CAREFUL, 2, actor="person")
    assert "forecache models evaluate returns 2" in refused.value.remedy
    assert models.champion(lake, CAREFUL).version == 3
    assert promotions(lake, "returns")[-1].to_version == 3

    moves.promote_version(lake, CAREFUL, 2, actor="person", reason="urgent", outdated_verdict=True)
    assert models.champion(lake, CAREFUL).version == 2
    entry = promotions(lake, "returns")[-1]
    assert entry.outdated_verdict
    assert entry.reason.startswith("urgent (on an outdated verdict: it was judged against champion 1")
    assert not any(earlier.outdated_verdict for earlier in promotions(lake, "returns")[:-2])


@pytest.mark.slow
def test_what_waits_is_judged_again_against_the_champion_that_took_its_place(after: After) -> None:
    lake = after(first_promoted, better_waits_since_before_the_champion)
    verdict = run_gate(lake, CAREFUL, 2, actor="person")
    assert (verdict.state, verdict.champion_before) == ("awaiting_approval", 3)
    entry = promotions(lake, "returns")[-1]
    assert (entry.action, entry.candidate, entry.from_version, entry.to_version) == ("gate", 2, 3, 3)
    assert run_gate(lake, CAREFUL, 2, actor="person") == verdict
    moves.promote_version(lake, CAREFUL, 2, actor="person")
    assert models.champion(lake, CAREFUL).version == 2
    assert not promotions(lake, "returns")[-1].outdated_verdict


@pytest.mark.slow
def test_the_command_line_refuses_an_outdated_verdict_and_judges_again(
    after: After, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = after(first_promoted, better_waits_since_before_the_champion)
    monkeypatch.setenv("FORECACHE_HOME", str(lake.home_path))
    monkeypatch.setattr("forecache.declare.loading.load_trained", lambda *_: CAREFUL)
    assert main(["promote", "returns", "2"]) == 6
    assert "judged against champion 1, and the champion is 3 now" in capsys.readouterr().err
    assert main(["models", "evaluate", "returns", "2"]) == 0
    said = capsys.readouterr().out
    assert "returns 2 passed and waits for approval" in said
    assert "than champion 3" in said
    assert main(["promote", "returns", "2"]) == 0
    assert main(["models", "evaluate", "returns", "2", "--json"]) == 0
    assert main(["promote", "returns", "2", "--reason", "twice"]) == 5
    assert "version 2 is the champion already" in capsys.readouterr().err
    moves.promote_version(lake, CAREFUL, 3, actor="person")
    judged(lake, sample.USELESS, CAREFUL)
    assert main(["models", "evaluate", "returns", "4"]) == 6
    assert "The gate refused model returns 4: roc_auc" in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_person_decided_is_not_judged_again(after: After) -> None:
    lake = after(good_waits)
    moves.reject_version(lake, CAREFUL, 1, actor="risk", reason="unfair")
    with pytest.raises(CheckError, match="version 1 was rejected by a person, which is final"):
        judge_version(lake, CAREFUL, version=1, actor="person")


@pytest.mark.slow
def test_what_waits_and_is_worse_than_the_champion_since_is_turned_down_when_judged_again(after: After) -> None:
    lake = after(first_promoted, worse_waits_since_before_the_champion)
    assert run_gate(lake, CAREFUL, 2, actor="person").state == "failed"
    with pytest.raises(CheckError, match="worse than champion 3"):
        moves.promote_version(lake, CAREFUL, 2, actor="person", outdated_verdict=True)
    assert models.champion(lake, CAREFUL).version == 3


@pytest.mark.slow
def test_what_failed_against_a_champion_that_was_rolled_back_since_is_judged_again(after: After) -> None:
    lake = after(slightly_worse, good)
    assert not judged(lake, WORSE_THAN_THE_LAST).passed
    roll_back_model(lake, returns, actor="person")
    assert run_gate(lake, returns, 3, actor="training").champion_after == 3
    assert models.champion(lake, returns).version == 3


def test_a_verdict_by_another_declaration_of_the_gate_is_outdated_too(after: After) -> None:
    lake = after(good_waits)
    stricter = replace(CAREFUL, gate=replace(CAREFUL.gate, floors={"roc_auc": 0.61}))
    with pytest.raises(CheckError, match="judged by another declaration of the gate"):
        moves.promote_version(lake, stricter, 1, actor="person")
    assert models.find_champion(lake, stricter) is None


def test_a_champion_that_changes_while_the_gate_judges_is_the_one_it_is_compared_with(
    after: After, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = after(slightly_worse)
    third = registered(lake, WORSE_THAN_THE_LAST)
    really, compared_with = gate_module._judge_candidate, []

    def judging(*arguments: object) -> object:
        compared_with.append(arguments[3].version)  # type: ignore[attr-defined]
        found = really(*arguments)  # type: ignore[arg-type]
        if len(compared_with) == 1:
            judged(lake, sample.GOOD)  # would wait for the registry's lock if the gate held it
        return found

    monkeypatch.setattr(gate_module, "_judge_candidate", judging)
    verdict = run_gate(lake, returns, third, actor="test")
    assert compared_with == [1, 1, 3]
    assert (verdict.passed, verdict.champion_before) == (False, 3)
    assert models.champion(lake, returns).version == 3


@pytest.mark.parametrize("file", ["model.onnx", "MLmodel"])
def test_a_tampered_artifact_is_refused(after: After, file: str) -> None:
    lake = after(good_registered)
    version = models.model_version(lake, returns, 1)
    path = models.verified_folder(lake, version) / file
    path.write_bytes(path.read_bytes() + b"\n# changed")
    with pytest.raises(CheckError, match=f"version 1 is refused: its file '{file}' does not match"):
        run_gate(lake, returns, 1, actor="test")
    assert models.find_champion(lake, returns) is None


def test_champion_loads_as_pyfunc_without_pickle_and_scores_like_onnx_runtime(after: After) -> None:
    lake = after(good)
    models.connect_mlflow(lake)
    import mlflow

    examples = read_examples(lake, returns, table="training_set_returns", version=2, split="test")
    frame = pd.DataFrame(examples.features, columns=list(returns.feature_names))
    model = mlflow.pyfunc.load_model("models:/returns@champion")
    predicted = model.predict(frame)
    assert list(predicted.columns) == ["return_probability"]
    loaded = open_model(models.verified_folder(lake, models.champion(lake, returns)), returns.main_output.spec)
    assert np.allclose(predicted["return_probability"], score_features(loaded, examples.features), atol=1e-6)
    assert set(model.metadata.flavors) == {"onnx", "python_function"}


def test_the_run_records_data_code_environment_and_plots(after: After) -> None:
    lake = after(good_registered)
    version = models.model_version(lake, returns, 1)
    client = models.connect_mlflow(lake)
    run = client.get_run(version.run_id)
    assert run.data.params["training_version"] == "2"
    assert run.data.params["seed"] == "7"
    assert run.data.tags["forecache.code_version"]
    assert run.data.metrics["test_roc_auc"] == pytest.approx(version.metrics["roc_auc"])
    assert "baseline_test_roc_auc" in run.data.metrics
    assert (run.data.metrics["cost_wasted_s"], run.data.metrics["cost_saving"]) == (12.0, 0.6)
    assert run.data.metrics["usage_stall_share"] == 0.02
    assert run.data.tags["forecache.advice"].startswith("A worker used at most 1.0 GiB of memory")
    assert len(client.get_metric_history(version.run_id, "validation_loss")) == 3
    assert run.inputs.dataset_inputs[0].dataset.name == "training_set_returns@2"
    plots = {Path(file.path).stem for file in client.list_artifacts(version.run_id, "plots")}
    curves = {"roc", "precision_recall", "gain", "lift", "calibration"}
    assert plots == {"label_mean", *curves, "scores", "importance", "loss"}
    assert [file.path for file in client.list_artifacts(version.run_id, "torch")] == ["torch/model.pt2"]
    evaluation = load_evaluation(lake, version)
    assert {row["feature"] for row in evaluation["importance"]} == set(returns.feature_names)
    json.dumps(evaluation, allow_nan=False)


def with_other_features(lake: Settings, *, same_rows: float, keep_noise: bool = True) -> tuple[Pipeline, int]:
    """Rename `noise` and change `visits` in the training set, with other users for some test rows.

    Returns the pipeline with these features, and a version of its model.
    """
    uri = lake.table_uri(returns.training_table)
    rows = DeltaTable(uri).to_pandas().sort_values("user_id", ignore_index=True)
    rows["hum"] = rows["noise"]
    rows["visits"] = np.float32(4) - rows["visits"]
    tests = rows.index[rows["split"] == "test"]
    others = tests[round(same_rows * len(tests)) :]
    rows.loc[others, "user_id"] = "other " + rows.loc[others, "user_id"]
    changed = rows if keep_noise else rows.drop(columns="noise")
    write_deltalake(uri, pa.Table.from_pandas(changed), mode="overwrite", schema_mode="overwrite")
    columns = tuple(replace(c, name="hum") if c.name == "noise" else c for c in returns.feature_columns)
    since = replace(returns, features=replace(returns.features, columns=columns))
    weights = (*sample.GOOD[:2], -sample.GOOD[2], *sample.GOOD[3:])
    training = sample.made_up_training(lake, since, weights, training_version=DeltaTable(uri).version())
    return since, int(register_trained_model(lake, since, training).details["model_version"])


def champion_metrics(lake: Settings, version: int, share: float) -> dict[str, float]:
    """The metrics of the good model on the features of a version of the training set, of its first test rows."""
    names = ["recency", "amount", "visits", "gap", "noise"]
    rows = DeltaTable(lake.table_uri(returns.training_table), version=version).to_pandas()
    rows = rows[rows["split"] == "test"].sort_values("user_id")
    rows = rows.iloc[: round(share * len(rows))]
    scores = 1 / (1 + np.exp(2 - rows[names].fillna(0.0).to_numpy(np.float64) @ np.array(sample.GOOD)))
    return judge_of(returns).measure(rows["returned"].to_numpy(np.float64), scores, None)


def champion_check(verdict: GateVerdict) -> Check:
    return next(check for check in verdict.checks if check.name == "champion_features")


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_a_champion_of_other_features_is_judged_on_those_of_its_training(
    after: After, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = after(good)
    since, version = with_other_features(lake, same_rows=share)
    drawn: list[tuple[int, int]] = []

    def draw(_: object, __: object, scores: np.ndarray, champion: np.ndarray) -> dict[str, str]:
        drawn.append((len(scores), len(champion)))
        return {}

    monkeypatch.setattr(gate_module, "find_hooks", lambda _: [draw])
    verdict = run_gate(lake, since, version, actor="test")
    assert drawn == [(round(1500 * share),) * 2]
    assert verdict.champion == pytest.approx(champion_metrics(lake, 2, share), abs=1e-6)
    check = champion_check(verdict)
    assert (check.result, check.value) == ("reported", share)
    of = f"{round(1500 * share):,} of 1,500 test rows"
    assert check.reason == f"champion 1 is judged on the features of its training, on {of}"
    report = write_report(lake, since, version).read_text()
    assert ("This version, test rows of both" in report, "Champion 1, test rows of both" in report) == (share < 1,) * 2
    # The candidate undoes the change of `visits`, so both give the same scores of the same rows, up to a constant.
    assert verdict.compared.get("roc_auc") == (None if share == 1.0 else pytest.approx(verdict.champion["roc_auc"]))
    [gain] = [each for each in verdict.checks if each.name == "champion"]
    assert gain.value == pytest.approx(0.0, abs=1e-6)
    assert (verdict.state, verdict.champion_after) == ("passed", version)


def test_a_champion_whose_training_has_few_of_the_rows_is_judged_on_the_new_features(after: After) -> None:
    lake = after(good)
    since, version = with_other_features(lake, same_rows=0.4)
    verdict = run_gate(lake, since, version, actor="test")
    uri = lake.table_uri(returns.training_table)
    assert verdict.champion == pytest.approx(champion_metrics(lake, DeltaTable(uri).version(), 1.0), abs=1e-6)
    check = champion_check(verdict)
    assert check.result == "warning"
    assert check.reason == (
        "champion 1 is judged on the new features, which favours the candidate: its training set has 600 of 1,500 test "
        "rows"
    )


def test_a_champion_whose_training_set_was_cleaned_up_by_others_is_judged_on_the_new_features(after: After) -> None:
    lake = after(good)
    since, version = with_other_features(lake, same_rows=1.0)
    DeltaTable(lake.table_uri(returns.training_table)).vacuum(0, dry_run=False, enforce_retention_duration=False)
    check = champion_check(run_gate(lake, since, version, actor="test"))
    assert check.result == "warning"
    assert re.search(r"favours the candidate: The data file part-\S+ .*is missing or damaged\.$", check.reason)


def test_a_champion_whose_features_are_gone_lets_a_model_in_only_by_a_person(after: After) -> None:
    lake = after(good)
    since, version = with_other_features(lake, same_rows=0.0, keep_noise=False)
    verdict = run_gate(lake, since, version, actor="test")
    assert (verdict.state, verdict.champion_after) == ("awaiting_approval", 1)
    assert "champion 1 cannot be compared, so a person has to confirm the model" in verdict.line
    assert [check.name for check in verdict.checks if check.result == "to confirm"] == ["champion"]
    assert models.champion(lake, since).version == 1
    moves.promote_version(lake, since, version, actor="person", reason="noise was renamed")
    assert models.champion(lake, since).version == version


@pytest.mark.slow
def test_champion_failed_and_rolled_back_versions_are_not_made_the_challenger(after: After) -> None:
    lake = after(slightly_worse, good)
    roll_back_model(lake, returns, actor="person")
    judged(lake, sample.USELESS)
    reasons = {1: "it is the champion", 2: "it was rolled back", 3: "it did not pass the gate, roc_auc"}
    for version, why in reasons.items():
        with pytest.raises(
            CheckError, match=rf"version {version} cannot be the challenger: {why}.*models list returns"
        ):
            name_challenger(lake, returns, version)
    assert find_challenger(lake, returns) is None


@pytest.mark.slow
def test_a_version_that_a_person_rejects_is_the_challenger_no_more_and_is_not_made_it_again(after: After) -> None:
    lake = after(good_waits)
    assert name_challenger(lake, CAREFUL, 1).gate == "awaiting_approval"
    moves.reject_version(lake, CAREFUL, 1, actor="risk", reason="unfair")
    assert models.model_version(lake, CAREFUL, 1).aliases == ()
    with pytest.raises(CheckError, match="version 1 cannot be the challenger: it was rejected by risk: unfair"):
        name_challenger(lake, CAREFUL, 1)

    judged(lake, sample.SLIGHTLY_WORSE, CAREFUL)
    other = registered(lake, sample.USELESS, CAREFUL)
    name_challenger(lake, CAREFUL, other)
    moves.reject_version(lake, CAREFUL, 2, actor="risk", reason="unfair")
    assert models.model_version(lake, CAREFUL, other).aliases == ("challenger",)


@pytest.mark.slow
def test_a_challenger_that_the_gate_turns_down_is_the_challenger_no_more(after: After) -> None:
    lake = after(good)
    worse = registered(lake, sample.USELESS)
    assert name_challenger(lake, returns, worse).gate == "pending"
    assert not run_gate(lake, returns, worse, actor="test").passed
    assert models.model_version(lake, returns, worse).aliases == ()


@pytest.mark.slow
def test_a_challenger_that_becomes_the_champion_loses_the_alias_and_another_one_keeps_it(after: After) -> None:
    lake = after(slightly_worse)
    by_gate = registered(lake, sample.GOOD)
    name_challenger(lake, returns, by_gate)
    assert run_gate(lake, returns, by_gate, actor="test").champion_after == by_gate
    assert models.model_version(lake, returns, by_gate).aliases == ("champion",)

    name_challenger(lake, returns, 1)
    moves.promote_version(lake, returns, 1, actor="person")
    assert models.model_version(lake, returns, 1).aliases == ("champion",)

    name_challenger(lake, returns, by_gate)
    other = registered(lake, sample.USELESS)
    models.connect_mlflow(lake).set_model_version_tag("returns", str(other), "gate", "passed")
    moves.promote_version(lake, returns, other, actor="person")
    assert models.model_version(lake, returns, by_gate).aliases == ("challenger",)


_READS = """
import sys
from pathlib import Path
from sample_project.pipelines.visits import returns
from forecache.models.inference.choose_runtime import plan_scoring
from forecache.models.registry.gate.gate_checks import Check
from forecache.models.registry.gate.metric_judge import judge_of
from forecache.models.registry.gate.verdicts import load_gate_plots
from forecache.models.registry import model_versions as models
from forecache.models.registry.register import load_evaluation
from forecache.base.settings import load_settings
from forecache.models.tracking.artifacts import download_artifact

settings = load_settings(home=sys.argv[1])
champion = models.champion(settings, returns)
assert load_evaluation(settings, champion)["rows"]["test"] > 0
assert load_gate_plots(settings, champion)
of_run = f"runs:/{champion.run_id}/model"
assert download_artifact(settings, artifact_uri=of_run) != models.verified_folder(settings, champion)
assert plan_scoring(of_run).payload == plan_scoring("models:/returns@champion").payload
kept = models.verified_folder(settings, champion)
assert Path(sys.argv[1]) in kept.parents or Path(sys.argv[2]) in kept.parents
"""


def test_a_process_that_reads_what_runs_logged_leaves_no_copies(
    after: After, homes: dict[tuple[Step, ...], Path], tmp_path: Path
) -> None:
    lake, scratch = after(good), tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _READS, str(lake.home_path), str(homes[()].parent)],
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.name for path in scratch.iterdir() if path.is_dir()] == []


def test_diff_shows_what_changed_between_versions(after: After) -> None:
    lake = after(good_registered)
    registered(lake, sample.USELESS)
    changed = models.diff_models(lake, returns, 1, 2)
    assert changed["roc_auc"][0] > changed["roc_auc"][1]
    assert "training_version" not in changed


def test_regression_is_judged_by_its_own_metrics(lake: Settings) -> None:
    verdict = judged(lake, (0.0, 0.3, 5.0, 0.0, 0.0), basket)
    assert verdict.passed
    assert set(verdict.metrics) == {"mae", "rmse", "r2", "spearman", "gini", "top_decile"} == set(verdict.baseline)
    assert verdict.metrics["mae"] < verdict.baseline["mae"]
    constant = next(check for check in verdict.checks if check.name == "constant")
    assert constant.passed
    assert "than always" in constant.reason
    assert constant.reason in verdict.line


def test_a_better_baseline_is_a_warning_in_verdict_command_and_report(
    lake: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    lenient = {"metric": "spearman", "floors": {"spearman": 0.1}, "baseline": Baseline("noise")}
    mild = replace(basket, gate=replace(basket.gate, **lenient))
    verdict = judged(lake, (0.0, 30.0, 500.0, 0.0, 0.0), mild)
    assert verdict.passed
    [warning] = verdict.warnings
    assert warning.startswith("noise alone is better by mae (")
    assert warning in verdict.line
    assert "passed with a warning" in verdict.line
    show_verdict(verdict)
    assert "warning" in capsys.readouterr().out
    assert 'class="verdict warned"' in write_report(lake, mild, verdict.model_version).read_text()
    counting = replace(mild, gate=replace(mild.gate, not_worse_than_baseline=("mae",)))
    again = run_gate(lake, counting, verdict.model_version, actor="test")
    assert not again.passed
    assert next(check for check in again.checks if check.name == "not_worse:mae").result == "failed"


def test_the_report_is_one_file_with_metrics_verdict_and_plots(after: After) -> None:
    lake = after(good)
    training = sample.made_up_training(lake, returns, sample.GOOD, training_version=2)
    page = write_report(lake, returns, 1, stages=[training]).read_text()
    assert page.count("<svg") == 9
    assert "best F1 on the validation split" in page
    for text in ("It passed the gate and is the champion", "recency alone", "training_set_returns", "ROC AUC"):
        assert text in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "src=" not in page


def test_gate_module_reads_verdicts_back_as_they_were(lake: Settings) -> None:
    verdict = judged(lake, sample.GOOD)
    assert gate_module.load_verdict(models.model_version(lake, returns, 1)) == verdict
