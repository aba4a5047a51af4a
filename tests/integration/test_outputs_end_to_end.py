"""Classes, quantiles, several numbers and vectors: trained, registered, judged, scored, published, answered."""

import json
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from outputs_project.pipelines import kinds
from registry_sample import NIGHT
from training_sample import sample_rows, write_training_set

from forecache.base.settings import Settings, load_settings
from forecache.declare import Pipeline
from forecache.kit.delta.tables import table_version
from forecache.lake.ledger import StageRecord, append_records
from forecache.models.inference.choose_runtime import plan_scoring
from forecache.models.registry import model_versions as models
from forecache.models.registry.gate.verdicts import GateVerdict
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.training.launch import train
from forecache.plugins.drift.prediction_drift import prediction_drift
from forecache.plugins.explain.pipeline_contributions import explain_prediction
from forecache.plugins.model_reports.report import write_report
from forecache.scoring.run import score
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import open_store, parse_key, publish

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow
ROWS = 600


def settings_in(folder: Path) -> Settings:
    return load_settings(
        home=folder / "home", project="outputs_project", spark_master="local[2]", spark_driver_memory="1g"
    )


def write_features(settings: Settings, pipeline: Pipeline, night: date = NIGHT, *, seed: int = 3) -> None:
    rows = sample_rows(pipeline, ROWS // 4, seed=seed).drop_columns(["split", *pipeline.label.columns])
    days = pa.array([night] * rows.num_rows, pa.date32())
    rows = rows.set_column(rows.schema.get_field_index("as_of"), "as_of", days)
    write_deltalake(
        settings.table_uri(pipeline.feature_table),
        rows,
        partition_by=["as_of"],
        mode="append",
        configuration={"delta.enableChangeDataFeed": "true"},
    )
    version = table_version(settings, pipeline.feature_table)
    append_records(
        settings, [StageRecord("features", pipeline.name, night, "made up", "", version, rows.num_rows, 0.0)]
    )


def trained(settings: Settings, pipeline: Pipeline) -> tuple[int, GateVerdict]:
    write_training_set(settings, pipeline)
    result = train(settings, pipeline, NIGHT)
    version = register_trained_model(settings, pipeline, result).details["model_version"]
    return version, run_gate(settings, pipeline, version, actor="test")


def predicted(settings: Settings, pipeline: Pipeline, night: date = NIGHT) -> pa.Table:
    table = DeltaTable(settings.table_uri(pipeline.prediction_table))
    return table.to_pyarrow_table(partitions=[("as_of", "=", night.isoformat())]).sort_by("user_id")


def both_engines(spark: "SparkSession", settings: Settings, pipeline: Pipeline) -> pa.Table:
    """A night's predictions, which are the same to the bit from Spark and from Arrow."""
    outcomes = []
    for engine in ("arrow", "spark"):
        score(settings, pipeline, [NIGHT], engine=engine, rebuild=True)  # type: ignore[arg-type]
        outcomes.append(predicted(settings, pipeline).drop_columns(["scored_at", "run_id"]))
    assert outcomes[0].equals(outcomes[1])
    return outcomes[0]


def answer_of(snapshot: Any, key: str) -> bytes:
    found = VersionAnswers(snapshot)
    found.refresh(time.time())
    return found.one(parse_key(snapshot.manifest.key, key))


def answers(settings: Settings, pipeline: Pipeline, keys: Sequence[str]) -> list[dict[str, Any]]:
    publish(settings, pipeline, night=NIGHT)
    with open_store(settings, pipeline.name).snapshot() as snapshot:
        return [json.loads(answer_of(snapshot, key))["value"] for key in keys]


@pytest.mark.parametrize(
    ("pipeline", "runtime"),
    [
        (kinds.plan, "onnx"),
        (kinds.plan_lightgbm, "lightgbm"),
        (kinds.plan_sklearn, "sklearn"),
        (kinds.plan_xgboost, "xgboost"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_classes_are_learned_judged_scored_and_answered(
    spark: "SparkSession", tmp_path: Path, pipeline: Pipeline, runtime: str
) -> None:
    settings = settings_in(tmp_path)
    version, verdict = trained(settings, pipeline)
    assert verdict.passed, verdict.reasons
    assert set(verdict.metrics) == {"log_loss", "accuracy", "macro_f1", "roc_auc", "ece", "gold_recall"}
    assert verdict.metrics["log_loss"] < verdict.baseline["log_loss"]
    assert any("than class shares alone" in reason for reason in verdict.reasons)
    plan = plan_scoring(str(models.verified_folder(settings, models.champion(settings, pipeline))))
    assert plan.spec.runtime == runtime
    assert plan.spec.options["forecache_outputs"][0]["classes"] == ["basic", "gold", "trial"]
    write_features(settings, pipeline)
    rows = both_engines(spark, settings, pipeline)
    best = [shares[0] for shares in rows["next_plan_probabilities"].to_pylist()]
    assert [share["class"] for share in best] == rows["next_plan"].to_pylist()
    assert set(rows["next_plan"].to_pylist()) == {"basic", "gold", "trial"}
    for shares in rows["next_plan_probabilities"].to_pylist():
        values = [share["probability"] for share in shares]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1)
    [answer] = answers(settings, pipeline, [rows["user_id"][0].as_py()])
    assert answer == {name: rows[name][0].as_py() for name in ("next_plan", "next_plan_probabilities")}
    drift = prediction_drift(settings, pipeline, NIGHT)
    assert drift.edges == ("basic", "gold", "trial")
    assert sum(drift.counts) == rows.num_rows
    in_spark = settings.model_copy(update={"engine": "spark"})
    assert prediction_drift(in_spark, pipeline, NIGHT).counts == drift.counts
    assert drift.level == "none"
    assert drift.distances["test split"].psi < 0.1
    page = write_report(settings, pipeline, version).read_text()
    assert "class shares alone" in page


@pytest.mark.parametrize(
    ("pipeline", "runtime"),
    [
        (kinds.spend, "onnx"),
        (kinds.spend_lightgbm, "lightgbm"),
        (kinds.spend_sklearn, "sklearn"),
        (kinds.spend_xgboost, "xgboost"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_quantiles_are_learned_judged_scored_and_answered(
    spark: "SparkSession", tmp_path: Path, pipeline: Pipeline, runtime: str
) -> None:
    settings = settings_in(tmp_path)
    version, verdict = trained(settings, pipeline)
    assert verdict.passed, verdict.reasons
    assert set(verdict.metrics) == {"pinball_loss", "coverage_error", "interval_width"}
    assert verdict.metrics["pinball_loss"] < verdict.baseline["pinball_loss"]
    assert verdict.baseline["coverage_error"] < 0.05
    plan = plan_scoring(str(models.verified_folder(settings, models.champion(settings, pipeline))))
    assert plan.spec.runtime == runtime
    write_features(settings, pipeline)
    rows = both_engines(spark, settings, pipeline)
    low, middle, high = (rows[f"spend_q{level}"].to_numpy() for level in (10, 50, 90))
    assert low.min() >= 0
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert (low < high).mean() > 0.9
    bands = np.array(["small", "medium", "large"])[np.searchsorted([20.0, 40.0], middle, side="right")]
    assert rows["size"].to_pylist() == bands.tolist()
    [answer] = answers(settings, pipeline, [rows["user_id"][5].as_py()])
    assert answer == {name: rows[name][5].as_py() for name in ("spend_q10", "spend_q50", "spend_q90", "size")}
    assert prediction_drift(settings, pipeline, NIGHT).output == "spend_q50"
    table = DeltaTable(settings.table_uri(pipeline.feature_table))
    of_night = table.to_pyarrow_table(partitions=[("as_of", "=", NIGHT.isoformat())]).to_pylist()
    [given] = [row for row in of_night if row["user_id"] == rows["user_id"][5].as_py()]
    found = explain_prediction(settings, pipeline, version, pipeline.feature_table, table.version(), NIGHT, given)
    assert (found["output"], found["sum"]) == ("spend_q50", pytest.approx(middle[5], abs=1e-3))
    assert found["base"] + sum(each["contribution"] for each in found["features"]) == pytest.approx(found["sum"])
    assert "empirical quantiles alone" in write_report(settings, pipeline, version).read_text()


def test_a_network_returns_several_numbers_and_a_vector(spark: "SparkSession", tmp_path: Path) -> None:
    settings, pipeline = settings_in(tmp_path), kinds.basket
    _, verdict = trained(settings, pipeline)
    assert verdict.passed, verdict.reasons
    write_features(settings, pipeline)
    rows = both_engines(spark, settings, pipeline)
    assert rows["expected"].to_numpy().min() >= 0
    assert np.abs(rows["log_deviation"].to_numpy()).max() <= 5
    vectors = np.stack(rows["embedding"].to_numpy(zero_copy_only=False))
    assert vectors.shape == (rows.num_rows, 4)
    assert vectors.std(axis=0).min() > 0
    [answer] = answers(settings, pipeline, [rows["user_id"][7].as_py()])
    assert np.array_equal(np.float32(answer.pop("embedding")), vectors[7])  # in the shortest text of a float32
    assert answer == {name: rows[name][7].as_py() for name in ("expected", "log_deviation")}


def test_weights_change_what_is_learned_and_how_it_is_judged(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    _, weighted = trained(settings, kinds.plan_weighted)
    _, plain = trained(settings, kinds.plan_lightgbm)
    assert weighted.passed
    assert plain.passed
    assert json.dumps(weighted.metrics) != json.dumps(plain.metrics)
    assert weighted.baseline["log_loss"] != plain.baseline["log_loss"]
