"""An estimator takes the road of a network: trained, registered, judged, scored, published, answered."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from estimator_project.pipelines.trees import basket_refit, basket_trees, churn_logistic, churn_trees, churn_wrong
from registry_sample import NIGHT
from training_sample import sample_rows, write_training_set
from warm_agents import cold_agents

from forecache.base.errors import CheckError, SettingsError
from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.declare import Pipeline
from forecache.kit.delta.tables import table_version
from forecache.lake.ledger import StageRecord, append_records, last_record
from forecache.models.inference.choose_runtime import plan_scoring
from forecache.models.registry import model_versions as models
from forecache.models.registry.gate.examples import open_model, read_examples, score_features
from forecache.models.registry.register import load_evaluation, register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.training.launch import train
from forecache.plugins.estimators.saving import dump_skops
from forecache.plugins.estimators.skops_files import load_skops
from forecache.plugins.lineage.facts import stage_facts
from forecache.plugins.model_reports.report import write_report
from forecache.plugins.tune.search import tune
from forecache.scoring.run import score
from forecache.serve.store import open_store, publish

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow


def settings_in(folder: Path) -> Settings:
    return load_settings(
        home=folder / "home", project="estimator_project", spark_master="local[2]", spark_driver_memory="1g"
    )


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, StageResult, list[str]]:
    """A home with a training set and the LightGBM model that was trained on it, registered and made the champion."""
    settings = settings_in(tmp_path_factory.mktemp("estimator"))
    write_training_set(settings, churn_trees)
    said: list[str] = []
    with cold_agents():
        trained = train(
            settings, churn_trees, NIGHT, run_id="first", progress=lambda message, share=None: said.append(message)
        )
    version = register_trained_model(settings, churn_trees, trained).details["model_version"]
    assert run_gate(settings, churn_trees, version, actor="test").passed
    return settings, trained, said


def write_features(settings: Settings, pipeline: Pipeline) -> None:
    """The night's features, one in ten of `gap` unknown, as the features stage would leave them."""
    rows = sample_rows(pipeline, 500, seed=3).drop_columns(["split", pipeline.label.name])
    night = pa.array([NIGHT] * rows.num_rows, pa.date32())
    rows = rows.set_column(rows.schema.get_field_index("as_of"), "as_of", night)
    write_deltalake(settings.table_uri(pipeline.feature_table), rows, partition_by=["as_of"])
    version = table_version(settings, pipeline.feature_table)
    append_records(
        settings, [StageRecord("features", pipeline.name, NIGHT, "made up", "", version, rows.num_rows, 0.0)]
    )


def predicted(settings: Settings, pipeline: Pipeline) -> pa.Table:
    return DeltaTable(settings.table_uri(pipeline.prediction_table)).to_pyarrow_table().sort_by("user_id")


def test_training_records_its_rounds_and_stops_early(churn: tuple[Settings, StageResult, list[str]]) -> None:
    settings, result, said = churn
    details = result.details
    assert (result.rows, result.skipped, details["workers"], details["unit"]) == (3000, False, 1, "round")
    losses = [entry["validation_loss"] for entry in details["history"]]
    assert len(losses) == details["epochs"] < 400
    assert details["validation_loss"] == losses[details["best_epoch"]] == min(losses) < losses[0]
    assert details["epochs"] - details["best_epoch"] == 21
    assert details["loss"] == "binary_logloss"
    assert details["estimator"]["parameters"]["random_state"] == churn_trees.training.seed
    assert details["cost"]["attempts"] == 1
    assert details["cost"]["device_s"] > 0
    assert details["usage"]["peak_memory_bytes"] > 1 << 20
    assert said[-1] == f"trained churn_trees: {details['epochs']} rounds"
    recorded = last_record(settings, "train", "churn_trees")
    assert recorded is not None
    assert (recorded.rows, recorded.run_id) == (3000, "first")
    assert train(settings, churn_trees, NIGHT).skipped


def test_the_same_inputs_give_the_same_file(churn: tuple[Settings, StageResult, list[str]], tmp_path: Path) -> None:
    elsewhere, first, _ = churn
    settings = settings_in(tmp_path)
    shutil.copytree(elsewhere.lake_uri, settings.lake_uri)
    shutil.rmtree(settings.table_uri("stage_ledger"))
    again = train(settings, churn_trees, NIGHT)
    assert not again.skipped
    assert again.details["weights_digest"] == first.details["weights_digest"]


def test_a_training_that_was_killed_before_it_was_recorded_is_recorded_without_a_time(
    churn: tuple[Settings, StageResult, list[str]], tmp_path: Path
) -> None:
    settings = settings_in(tmp_path)
    shutil.copytree(churn[0].home_path, settings.home_path)
    shutil.rmtree(settings.table_uri("stage_ledger"))
    assert not train(settings, churn_trees, NIGHT).skipped
    recorded = last_record(settings, "train", "churn_trees")
    assert recorded is not None
    assert (recorded.rows, recorded.seconds) == (3000, 0.0)
    assert "nights" not in recorded.details["cost"]  # by which plans estimate


def test_the_registered_model_is_a_booster_with_run_metrics_and_report(
    churn: tuple[Settings, StageResult, list[str]],
) -> None:
    settings, result, _ = churn
    version = models.champion(settings, churn_trees)
    assert version.tags["flavour"] == "lightgbm"
    run = models.connect_mlflow(settings).get_run(version.run_id)
    assert run.data.params["estimator"] == "lightgbm.sklearn.LGBMClassifier"
    assert run.data.params["estimator.num_leaves"] == "15"
    assert "learning_rate" not in run.data.params
    assert (
        len(models.connect_mlflow(settings).get_metric_history(version.run_id, "validation_loss"))
        == (result.details["epochs"])
    )
    assert load_evaluation(settings, version)["metrics"]["test"]["roc_auc"] > 0.7
    page = write_report(settings, churn_trees, version.version, stages=[result]).read_text()
    assert f"{result.details['epochs']} rounds" in page
    assert "lightgbm" in page


def test_scores_of_both_engines_are_the_boosters_own_and_are_published_and_answered(
    churn: tuple[Settings, StageResult, list[str]], spark: "SparkSession"
) -> None:
    import lightgbm

    settings, result, _ = churn
    write_features(settings, churn_trees)
    done = score(settings, churn_trees, [NIGHT], engine="arrow")
    assert done.details["plan"]["runtime"] == "lightgbm"
    by_arrow = predicted(settings, churn_trees)
    rows = sample_rows(churn_trees, 500, seed=3).sort_by("user_id").select(list(churn_trees.feature_names))
    features = np.column_stack([column.to_numpy() for column in rows.columns])
    booster = lightgbm.Booster(model_file=Path(result.details["run_dir"]) / "model.lgb")
    np.testing.assert_array_equal(by_arrow.column("return_probability").to_numpy(), booster.predict(features))

    shutil.rmtree(settings.table_uri(churn_trees.prediction_table))
    append_records(settings, [StageRecord("score", "churn_trees", NIGHT, "removed", "", -1, 0, 0.0)])
    score(settings, churn_trees, [NIGHT], engine="spark", mode="full")
    by_spark = predicted(settings, churn_trees)
    assert by_spark.select(["user_id", "return_probability"]) == by_arrow.select(["user_id", "return_probability"])

    publish(settings, churn_trees)
    with open_store(settings, "churn_trees").snapshot() as snapshot:
        answer = json.loads(answer_of(snapshot, "u0000000"))
    assert answer["value"]["return_probability"] == by_arrow.column("return_probability")[0].as_py()


def answer_of(snapshot: object, key: str) -> bytes:
    import time

    from forecache.serve.reader.versions.answers import VersionAnswers
    from forecache.serve.store import parse_key

    answers = VersionAnswers(snapshot)
    answers.refresh(time.time())
    return answers.one(parse_key(snapshot.manifest.key, key))


def refuses_what_was_changed(settings: Settings, pipeline: Pipeline, file: str) -> None:
    """Scoring, the gate, the report and the column function refuse the champion once a byte of its file is another."""
    version = models.champion(settings, pipeline)
    path = models.verified_folder(settings, version) / file
    stricter = replace(pipeline, gate=replace(pipeline.gate, max_size_bytes=99_999_999))
    append_records(settings, [StageRecord("score", pipeline.name, NIGHT, "as if features had changed", "", -1, 0, 0.0)])
    uses: list[Callable[[], object]] = [
        lambda: score(settings, pipeline, [NIGHT], engine="arrow"),
        lambda: run_gate(settings, stricter, version.version, actor="test"),
        lambda: write_report(settings, pipeline, version.version),
        lambda: plan_scoring(f"models:/{pipeline.name}@champion"),
    ]
    original = path.read_bytes()
    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    try:
        for use in uses:
            with pytest.raises(CheckError, match=f"its file '{file}' does not match the checksum"):
                use()
    finally:
        path.write_bytes(original)


def test_a_tampered_lightgbm_model_is_refused(churn: tuple[Settings, StageResult, list[str]]) -> None:
    settings, _, _ = churn
    if not DeltaTable.is_deltatable(settings.table_uri(churn_trees.feature_table)):
        write_features(settings, churn_trees)
    refuses_what_was_changed(settings, churn_trees, "model.lgb")


def test_an_xgboost_regression_keeps_its_best_rounds_and_its_bounds(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write_training_set(settings, basket_trees)
    with cold_agents():
        result = train(settings, basket_trees, NIGHT)
    assert result.details["loss"] == "rmse"
    import xgboost

    booster = xgboost.Booster(model_file=str(Path(result.details["run_dir"]) / "model.json"))
    assert booster.num_boosted_rounds() == result.details["best_epoch"] + 1
    version = register_trained_model(settings, basket_trees, result).details["model_version"]
    assert run_gate(settings, basket_trees, version, actor="test").passed
    champion = models.champion(settings, basket_trees)
    plan = plan_scoring(str(models.verified_folder(settings, champion)))
    assert plan.spec.runtime == "xgboost"
    write_features(settings, basket_trees)
    score(settings, basket_trees, [NIGHT], engine="arrow")
    spend = predicted(settings, basket_trees).column("expected_spend").to_numpy()
    assert spend.min() >= 0
    assert spend.std() > 1
    for maximum in (float(np.sort(spend)[len(spend) // 2]), None):  # other limits score again, and never train
        limited = replace(basket_trees, outputs=(replace(basket_trees.main_output, maximum=maximum),))
        assert train(settings, limited, NIGHT).skipped
        assert not score(settings, limited, [NIGHT], engine="arrow").skipped
        again = predicted(settings, limited).column("expected_spend").to_numpy()
        assert np.array_equal(np.sort(again), np.sort(np.clip(spend, 0, maximum)))
    refuses_what_was_changed(settings, basket_trees, "model.json")


@pytest.fixture(scope="module")
def refitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, StageResult]:
    """A home with the LightGBM regression that was fitted again on all rows, registered and made the champion."""
    settings = settings_in(tmp_path_factory.mktemp("refit"))
    write_training_set(settings, basket_refit)
    trained = train(settings, basket_refit, NIGHT)
    version = register_trained_model(settings, basket_refit, trained).details["model_version"]
    assert run_gate(settings, basket_refit, version, actor="test").passed
    return settings, trained


def test_the_served_model_has_the_rows_of_all_splits_and_the_judged_one_those_of_training(
    refitted: tuple[Settings, StageResult],
) -> None:
    import lightgbm

    settings, trained = refitted
    details, folder = trained.details, Path(trained.details["run_dir"])
    assert details["rows"] == {"train": 3000, "validation": 1500}
    assert details["refit"] == {"rows": 6000, "rounds": details["best_epoch"] + 1}
    judged, served = (lightgbm.Booster(model_file=folder / name) for name in ("model.lgb", "refit/model.lgb"))
    assert judged.num_trees() == served.num_trees() == details["best_epoch"] + 1
    rows = [booster.dump_model()["tree_info"][0]["tree_structure"]["internal_count"] for booster in (judged, served)]
    assert rows == [3000, 6000]

    version = models.champion(settings, basket_refit)
    test = read_examples(settings, basket_refit, table="training_set_basket_refit", version=2, split="test")
    for booster, place in ((judged, models.judged_folder), (served, models.verified_folder)):
        registered = open_model(place(settings, version), basket_refit.main_output.spec)
        assert np.array_equal(score_features(registered, test.features), booster.predict(test.features))
    error = np.abs(judged.predict(test.features) - test.label).mean()
    assert version.metrics["mae"] == pytest.approx(error)
    assert version.metrics["mae"] > np.abs(served.predict(test.features) - test.label).mean()


def test_a_model_that_was_fitted_again_scores_and_its_report_and_lineage_say_so(
    refitted: tuple[Settings, StageResult],
) -> None:
    import lightgbm

    settings, trained = refitted
    write_features(settings, basket_refit)
    score(settings, basket_refit, [NIGHT], engine="arrow")
    rows = sample_rows(basket_refit, 500, seed=3).sort_by("user_id").select(list(basket_refit.feature_names))
    features = np.column_stack([column.to_numpy() for column in rows.columns])
    booster = lightgbm.Booster(model_file=Path(trained.details["run_dir"]) / "refit" / "model.lgb")
    scored = predicted(settings, basket_refit).column("expected_spend").to_numpy()
    np.testing.assert_array_equal(scored, booster.predict(features))
    page = write_report(settings, basket_refit, 1).read_text()
    assert "Fitted again" in page
    assert "6,000" in page
    told = {fact.stage: fact.details.get("refit") for fact in stage_facts(settings, [])}
    assert told["train"] == told["register"] == trained.details["refit"]
    assert told["score"] is None


def test_a_candidate_is_compared_with_the_champion_that_has_not_seen_its_test_split(
    refitted: tuple[Settings, StageResult], tmp_path: Path
) -> None:
    home = shutil.copytree(refitted[0].home_path, tmp_path / "home")
    settings = load_settings(home=home, project="estimator_project")
    first = models.champion(settings, basket_refit)
    other = replace(basket_refit, training=replace(basket_refit.training, seed=8))
    version = register_trained_model(settings, other, train(settings, other, NIGHT)).details["model_version"]
    assert version == 2
    assert run_gate(settings, other, version, actor="test").champion == pytest.approx(first.metrics)
    changed = models.judged_folder(settings, models.model_version(settings, other, 2)) / "model.lgb"
    changed.write_bytes(changed.read_bytes() + b"\n")
    stricter = replace(other, gate=replace(other.gate, max_size_bytes=99_999_999))
    with pytest.raises(CheckError, match="version 2 is refused: its file 'model.lgb' does not match"):
        run_gate(settings, stricter, 2, actor="test")


@pytest.mark.parametrize("pipeline", [basket_trees, churn_logistic])
def test_every_library_fits_again_with_the_same_rounds(pipeline: Pipeline, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write_training_set(settings, pipeline, rows_per_date=200)
    again = replace(pipeline, training=replace(pipeline.training, refit=True))
    trained = train(settings, again, NIGHT)
    rounds = trained.details["best_epoch"] + 1 if trained.details["history"] else 0
    assert trained.details["refit"] == {"rows": 800, "rounds": rounds}
    folder = Path(trained.details["run_dir"])
    [file] = (folder / "refit").iterdir()
    assert file.read_bytes() != (folder / file.name).read_bytes()
    assert trained.details["weights_digest"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "refit" not in train(settings, pipeline, NIGHT).details


def test_a_scikit_learn_pipeline_imputes_and_is_loaded_without_a_pickle(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write_training_set(settings, churn_logistic)
    with cold_agents():
        result = train(settings, churn_logistic, NIGHT)
    assert result.details["history"] == []
    assert 0 < result.details["validation_loss"] < 0.693
    version = register_trained_model(settings, churn_logistic, result).details["model_version"]
    assert run_gate(settings, churn_logistic, version, actor="test").passed
    folder = models.verified_folder(settings, models.champion(settings, churn_logistic))
    assert not list(folder.rglob("*.pkl"))
    assert plan_scoring(str(folder)).spec.runtime == "sklearn"
    write_features(settings, churn_logistic)
    score(settings, churn_logistic, [NIGHT], engine="arrow")
    values = predicted(settings, churn_logistic).column("return_probability")
    assert values.null_count == 0
    page = write_report(settings, churn_logistic, version).read_text()
    assert page.count("<svg") == 8
    refuses_what_was_changed(settings, churn_logistic, "model.skops")


def test_two_homes_that_train_the_same_scikit_learn_model_at_once_have_one_version(tmp_path: Path) -> None:
    shared = {
        "project": "estimator_project",
        "lake": str(tmp_path / "lake"),
        "mlflow_uri": f"sqlite:///{tmp_path}/mlflow.db",
        "mlflow_artifacts": (tmp_path / "artifacts").as_uri(),
    }
    homes = [load_settings(home=tmp_path / name, **shared) for name in ("first", "second")]
    write_training_set(homes[0], churn_logistic)
    trained = [train(settings, churn_logistic, NIGHT) for settings in homes]
    assert len({result.details["run_dir"] for result in trained}) == 2
    assert trained[0].details["weights_digest"] == trained[1].details["weights_digest"]
    for settings, result in zip(homes, trained, strict=True):
        assert register_trained_model(settings, churn_logistic, result).details["model_version"] == 1
    assert [version.version for version in models.list_models(homes[1], churn_logistic)] == [1]


@pytest.mark.parametrize("kind", ["RandomForestClassifier", "HistGradientBoostingClassifier"])
def test_equal_estimators_of_scikit_learn_have_equal_files(kind: str) -> None:
    from sklearn import ensemble

    rng = np.random.default_rng(0)
    rows, label = rng.normal(size=(500, 4)), rng.random(500) < 0.5
    first, second = (getattr(ensemble, kind)(random_state=7).fit(rows, label) for _ in range(2))
    payload = dump_skops(first)
    assert payload == dump_skops(second)
    loaded = load_skops(payload)
    assert np.array_equal(loaded.predict_proba(rows), first.predict_proba(rows))
    other = getattr(ensemble, kind)(random_state=8).fit(rows[::-1], label)
    assert payload != dump_skops(other)


def test_an_estimator_with_an_argument_named_file_is_saved() -> None:
    from sklearn.preprocessing import FunctionTransformer

    saved = load_skops(dump_skops(FunctionTransformer(kw_args={"file": "x"})))
    assert saved.kw_args == {"file": "x"}


def test_an_estimator_without_probabilities_is_refused_in_a_sentence(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write_training_set(settings, churn_wrong, rows_per_date=50)
    with pytest.raises(SettingsError, match="builds a LinearRegression, which has no 'predict_proba'"):
        train(settings, churn_wrong, NIGHT)


def test_the_search_says_that_it_is_for_networks(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'churn_trees' has an estimator"):
        tune(settings_in(tmp_path), churn_trees, NIGHT)
