"""A ranking is trained by requests, registered, judged by requests, and told in a report."""

import json
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable
from ranked_project.pipelines.offers import (
    offers,
    offers_by_offer,
    offers_xgboost,
    weighted_offers,
    weighted_xgboost,
)
from ranking_sample import DAYS, write_requests

from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.declare import EstimatorModel, Trainable
from forecache.models.inference.encoding import encoding_of
from forecache.models.registry import model_versions as models
from forecache.models.registry.gate.verdicts import load_gate_plots
from forecache.models.registry.register import load_evaluation, register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.training.launch import train
from forecache.plugins.estimators.libraries import fit, read_matrix, set_seed
from forecache.plugins.model_reports.report import write_report

pytestmark = pytest.mark.slow
NIGHT = DAYS["test"]


def settings_in(folder: Path) -> Settings:
    return load_settings(home=folder / "home", project="ranked_project")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_in(tmp_path_factory.mktemp("ranked"))


@pytest.fixture(scope="module")
def trained(settings: Settings) -> StageResult:
    write_requests(settings, offers)
    return train(settings, offers, NIGHT)


def mean_ndcg(settings: Settings, pipeline: Trainable, version: int, column: str) -> float:
    """nDCG@10 of a column over the requests of the test split, by scikit-learn."""
    from sklearn.metrics import ndcg_score

    rows = DeltaTable(settings.table_uri(pipeline.training_table), version=version).to_pandas()
    values = [
        ndcg_score([request["taken"]], [request[column]], k=10)
        for _, request in rows[rows["split"] == "test"].groupby("request_id")
        if request["taken"].any() and len(request) > 1
    ]
    return float(np.mean(values))


def test_a_ranker_is_told_which_rows_are_of_one_request(settings: Settings, trained: StageResult) -> None:
    details = trained.details
    version = details["training_version"]
    encoding = encoding_of(offers.feature_columns, {})
    sizes = [read_matrix(settings, offers, encoding, version=version, split=s).sizes for s in ("train", "validation")]
    assert sizes[0] is not None
    assert len(sizes[0]) == 750
    assert sizes[0].sum() == trained.rows
    assert details["loss"] == "1 - ndcg@10"
    losses = [entry["validation_loss"] for entry in details["history"]]
    assert losses[details["best_epoch"]] == min(losses) < losses[0]
    assert details["validation_loss"] == min(losses)
    assert details["epochs"] < 80, "the validation requests should have stopped it"


def test_the_gate_judges_by_request_with_all_baselines(settings: Settings, trained: StageResult) -> None:
    version = register_trained_model(settings, offers, trained).details["model_version"]
    verdict = run_gate(settings, offers, version, actor="test")
    assert verdict.passed, verdict.reasons
    names = [check.name for check in verdict.checks]
    assert names[:2] == ["schema", "floor:ndcg@10"]
    assert set(names[2:]) == {
        *("baseline:popularity", "baseline:price", "baseline:random order"),
        *("latency_ms", "size_mb"),
    }
    assert verdict.baseline_name == "popularity"
    table_version = trained.details["training_version"]
    expected = mean_ndcg(settings, offers, table_version, "popularity")
    assert verdict.baseline["ndcg@10"] == pytest.approx(expected)
    check = next(check for check in verdict.checks if check.name == "baseline:popularity")
    assert check.value == pytest.approx(verdict.metrics["ndcg@10"] - expected)
    assert check.low is not None
    assert 0 < check.low < check.value
    latency = next(check for check in verdict.checks if check.name == "latency_ms")
    assert "a request of " in latency.reason
    assert set(load_gate_plots(settings, models.champion(settings, offers))) == {"gains"}


def test_the_scores_of_the_gate_are_those_of_the_booster(settings: Settings, trained: StageResult) -> None:
    import lightgbm

    version = register_trained_model(settings, offers, trained).details["model_version"]
    metrics = models.model_version(settings, offers, version).metrics
    rows = DeltaTable(settings.table_uri(offers.training_table), version=trained.details["training_version"])
    frame = rows.to_pandas()
    booster = lightgbm.Booster(model_file=str(Path(trained.details["run_dir"]) / "model.lgb"))
    frame["scored"] = booster.predict(frame[list(offers.feature_names)].to_numpy(np.float32))
    from sklearn.metrics import ndcg_score

    test = frame[(frame["split"] == "test")]
    values = [
        ndcg_score([each["taken"]], [each["scored"]], k=10)
        for _, each in test.groupby("request_id")
        if each["taken"].any()
    ]
    assert metrics["ndcg@10"] == pytest.approx(np.mean(values))


def test_the_report_shows_the_ranking_beside_its_baselines(settings: Settings, trained: StageResult) -> None:
    version = register_trained_model(settings, offers, trained).details["model_version"]
    evaluation = load_evaluation(settings, models.model_version(settings, offers, version))
    assert set(evaluation["places"]) == {"model", "popularity", "price", "random order"}
    assert evaluation["places"]["model"][9] == pytest.approx(evaluation["metrics"]["test"]["ndcg@10"], abs=1e-6)
    assert evaluation["calibration"] == []
    assert evaluation["importance"][0]["feature"] == "taste"
    page = write_report(settings, offers, version).read_text()
    assert "nDCG by the number of places" in page
    assert "Calibration" not in page
    run = models.connect_mlflow(settings).get_run(models.model_version(settings, offers, version).run_id)
    assert run.data.metrics["test_ndcg_at_10"] == pytest.approx(evaluation["metrics"]["test"]["ndcg@10"])
    json.dumps(evaluation)


@pytest.mark.parametrize("pipeline", [offers_xgboost, offers_by_offer], ids=lambda pipeline: pipeline.name)
def test_other_estimators_take_the_same_road(settings: Settings, pipeline: Trainable) -> None:
    write_requests(settings, pipeline)
    result = train(settings, pipeline, NIGHT)
    if pipeline is offers_xgboost:
        assert result.details["loss"] == "1 - ndcg@10"
    version = register_trained_model(settings, pipeline, result).details["model_version"]
    verdict = run_gate(settings, pipeline, version, actor="test")
    assert verdict.passed, verdict.reasons


@pytest.mark.parametrize("pipeline", [weighted_offers, weighted_xgboost], ids=lambda pipeline: pipeline.name)
def test_weights_of_requests_reach_the_ranker(
    settings: Settings, pipeline: Trainable, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = write_requests(settings, pipeline, 400)
    encoding = encoding_of(pipeline.feature_columns, {})
    train_rows, held_out = (
        read_matrix(settings, pipeline, encoding, version=version, split=split) for split in ("train", "validation")
    )
    assert isinstance(pipeline.model, EstimatorModel)
    estimator = set_seed(pipeline.model.build(), 7)
    told: dict[str, Any] = {}
    fitted = type(estimator).fit

    @wraps(fitted)
    def watched(*arguments: Any, **more: Any) -> Any:
        told.update(more)
        return fitted(*arguments, **more)

    monkeypatch.setattr(type(estimator), "fit", watched)
    fit(estimator, encoding.columns, train_rows, held_out, patience=5, ended=lambda *_: None)
    of_rows = pipeline is weighted_offers
    assert np.array_equal(told["group"], train_rows.sizes)
    assert np.array_equal(told["sample_weight"], train_rows.weight if of_rows else train_rows.weight_of_requests)
