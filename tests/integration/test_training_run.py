"""Training under torchrun on a real Delta table: what comes out, that it repeats, and how it fails."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch
from deltalake import write_deltalake
from registry_sample import NIGHT
from sample_project.pipelines.visits import basket, returns
from training_sample import sample_rows, write_training_set
from warm_agents import cold_agents

from forecache.base.errors import ForecacheError, NotFoundError
from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.declare import Training, load_pipeline
from forecache.lake.ledger import last_record
from forecache.models.registry import model_versions as models
from forecache.models.registry.gate.examples import open_model, read_examples, score_features
from forecache.models.registry.gate.score_metrics import log_loss
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.tracking.client import connect_mlflow
from forecache.models.training.launch import train, training_inputs
from forecache.models.training.process import LOG_FILE

pytestmark = pytest.mark.slow


def settings_in(folder: Path, **overrides: object) -> Settings:
    return load_settings(home=folder / "home", project="sample_project", **overrides)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, StageResult, list[str]]:
    settings = settings_in(tmp_path_factory.mktemp("trained"))
    write_training_set(settings, returns)
    said: list[str] = []
    with cold_agents():
        result = train(
            settings, returns, NIGHT, run_id="first", progress=lambda message, share=None: said.append(message)
        )
    return settings, result, said


def test_training_reports_its_rows_epochs_and_workers(trained: tuple[Settings, StageResult, list[str]]) -> None:
    settings, result, said = trained
    assert (result.rows, result.delta_version, result.skipped) == (3000, 2, False)
    assert (result.details["epochs"], result.details["workers"], result.details["device"]) == (4, 2, "cpu")
    losses = [epoch["validation_loss"] for epoch in result.details["history"]]
    assert result.details["validation_loss"] == min(losses) < losses[0]
    assert any("validation loss" in message for message in said)
    recorded = last_record(settings, "train", "returns")
    assert recorded is not None
    assert (recorded.rows, recorded.run_id) == (3000, "first")


def test_the_losses_of_each_epoch_are_in_the_mlflow_run_before_anything_is_registered(
    trained: tuple[Settings, StageResult, list[str]],
) -> None:
    settings, result, _ = trained
    client = connect_mlflow(settings)
    run = result.details["mlflow_run_id"]
    assert client.get_run(run).info.status == "FINISHED"
    logged = sorted((metric.step, metric.value) for metric in client.get_metric_history(run, "validation_loss"))
    assert logged == [(epoch["epoch"], epoch["validation_loss"]) for epoch in result.details["history"]]


def test_the_record_says_how_the_network_lay_on_the_devices_and_in_what_it_computed(
    trained: tuple[Settings, StageResult, list[str]],
) -> None:
    details = trained[1].details
    assert details["precision"] == "float32"
    assert details["parallel"]["kind"] == "ddp"
    assert details["parallel"]["needed_bytes"] == 5 * 4 * details["parameters"]
    assert details["parallel"]["device_bytes"] > details["parallel"]["needed_bytes"]


def test_training_again_is_skipped(trained: tuple[Settings, StageResult, list[str]]) -> None:
    settings, result, _ = trained
    again = train(settings, returns, NIGHT)
    assert again.skipped
    assert again.seconds < result.seconds
    assert again.details == json.loads(json.dumps(result.details))


def test_exports_agree_with_each_other_on_unknown_values_and_single_rows(
    trained: tuple[Settings, StageResult, list[str]],
) -> None:
    settings, result, _ = trained
    folder = Path(result.details["run_dir"])
    assert not list(folder.glob("*.data"))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    module = torch.export.load(folder / "model.pt2").module()
    features = read_examples(settings, returns, table="training_set_returns", version=2, split="test").features
    features[0] = np.nan
    features[1] = -features[1]
    for rows in (features, features[:1]):
        [onnx] = session.run(["return_probability"], {"features": rows})
        expected = module(torch.from_numpy(rows)).detach().numpy()
        assert onnx.shape == (len(rows), 1)
        assert np.abs(onnx - expected).max() < 1e-5
        assert ((onnx >= 0) & (onnx <= 1)).all()
    assert result.details["parity_max_relative"] <= 1e-5


def test_the_same_inputs_give_the_same_weights(
    trained: tuple[Settings, StageResult, list[str]], tmp_path: Path
) -> None:
    elsewhere, first, _ = trained
    settings = settings_in(tmp_path)
    shutil.copytree(elsewhere.lake_uri, settings.lake_uri)
    shutil.rmtree(settings.table_uri("stage_ledger"))
    again = train(settings, returns, NIGHT)
    assert not again.skipped
    assert again.details["weights_digest"] == first.details["weights_digest"]
    assert again.details["history"][-1]["train_loss"] == first.details["history"][-1]["train_loss"]


def test_a_regression_on_log1p_is_exported_in_the_labels_unit(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, training_workers=1)
    write_training_set(settings, basket)
    result = train(settings, basket, NIGHT)
    assert result.details["workers"] == 1
    examples = read_examples(settings, basket, table="training_set_basket", version=2, split="test")
    session = onnxruntime.InferenceSession(Path(result.details["run_dir"]) / "model.onnx")
    predicted = session.run(None, {"features": examples.features})[0].reshape(-1)
    assert (predicted >= 0).all()
    assert np.corrcoef(predicted, examples.label)[0, 1] > 0.6
    assert abs(predicted.mean() - examples.label.mean()) < 0.3 * examples.label.mean()


def test_it_ends_where_validation_has_not_improved_for_the_patience_and_keeps_the_best_weights(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, training_workers=1)
    write_training_set(settings, returns)
    hasty = replace(returns, training=Training(epochs=30, patience=2, batch_size=64, learning_rate=0.3))
    result = train(settings, hasty, NIGHT)
    losses = [epoch["validation_loss"] for epoch in result.details["history"]]
    best = losses.index(min(losses))
    assert (result.details["best_epoch"], result.details["epochs"]) == (best, best + 3)
    assert len(losses) < 30
    assert min(losses[-2:]) > losses[best] + 0.001

    examples = read_examples(settings, returns, table="training_set_returns", version=2, split="validation")
    session = onnxruntime.InferenceSession(Path(result.details["run_dir"]) / "model.onnx")
    predicted = session.run(None, {"features": examples.features})[0].reshape(-1)
    assert log_loss(examples.label, predicted) == pytest.approx(losses[best], abs=1e-4)


def test_a_network_is_trained_again_on_all_splits_for_the_epochs_that_validation_chose(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "again")
    write_training_set(settings, returns, files=1)
    again = replace(returns, training=replace(returns.training, refit=True))
    result = train(settings, again, NIGHT)
    folder, details = Path(result.details["run_dir"]), result.details
    assert details["rows"] == {"train": 3000, "validation": 1500}
    assert details["refit"] == {"rows": 6000, "rounds": details["best_epoch"] + 1}

    # A training from nothing on a set whose rows are all of the training split, and validated by some of them.
    alone = settings_in(tmp_path / "alone")
    rows = sample_rows(returns, 1500)
    for split, part in (("train", rows), ("validation", rows.slice(0, 500))):
        part = part.set_column(part.column_names.index("split"), "split", pa.array([split] * len(part)))
        write_deltalake(alone.table_uri(returns.training_table), part, mode="append")
    epochs = details["refit"]["rounds"]
    expected = train(alone, replace(returns, training=replace(returns.training, epochs=epochs)), NIGHT)
    assert expected.details["best_epoch"] == epochs - 1  # so that its best weights are its last
    assert details["weights_digest"] == expected.details["weights_digest"]

    examples = read_examples(settings, returns, table="training_set_returns", version=0, split="test")
    judged, served = (onnxruntime.InferenceSession(folder / name) for name in ("model.onnx", "refit/model.onnx"))
    whole = onnxruntime.InferenceSession(Path(expected.details["run_dir"]) / "model.onnx")
    predicted = [each.run(None, {"features": examples.features})[0] for each in (judged, served, whole)]
    assert np.array_equal(predicted[1], predicted[2])
    assert not np.array_equal(predicted[0], predicted[1])

    version = register_trained_model(settings, again, result).details["model_version"]
    verdict = run_gate(settings, again, version, actor="test")
    assert verdict.passed
    assert verdict.metrics["log_loss"] == pytest.approx(log_loss(examples.label, predicted[0].reshape(-1)), abs=1e-6)
    champion = models.champion(settings, again)
    scored = open_model(models.verified_folder(settings, champion), again.main_output.spec)
    assert np.array_equal(score_features(scored, examples.features), predicted[1].reshape(-1).astype(np.float64))


def test_without_a_training_set_the_error_names_the_table(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no table 'training_set_returns'"):
        train(settings_in(tmp_path), returns, NIGHT)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("broken", "'broken' failed with ValueError: cannot build for 5 features"),
        ("wrong", "validation loss is not a number after epoch 0"),
    ],
)
def test_an_error_in_the_declaration_is_one_sentence_with_the_log(tmp_path: Path, name: str, sentence: str) -> None:
    settings = load_settings(home=tmp_path / "home", project="broken_project", training_workers=1)
    pipeline = load_pipeline(settings, name)
    write_training_set(settings, pipeline, rows_per_date=100)
    with pytest.raises(ForecacheError, match=sentence) as caught:
        train(settings, pipeline, NIGHT)
    log = next(settings.training_path.rglob(LOG_FILE))
    assert str(log) in str(caught.value)
    assert "Traceback" in log.read_text()


def test_other_hyperparameters_are_another_run(trained: tuple[Settings, StageResult, list[str]]) -> None:
    changed = replace(returns, training=replace(returns.training, learning_rate=0.02))
    assert training_inputs(changed, 2) != training_inputs(returns, 2)
    assert training_inputs(returns, 3) != training_inputs(returns, 2)
