"""Nights are scored with models that are not trained here: registered ones, functions, expressions."""

import dataclasses
import shutil
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from applied_sample import NAMES, applied, onnx_model, prepare, register, sklearn_model
from deltalake import DeltaTable, write_deltalake
from rules_project.pipelines import rules as functions
from scoring_support import NIGHT, features_table, predictions, quiet, write_features

from forecache.base.errors import CheckError, InputError, NotFoundError, UnavailableError
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.declare import Classes, FunctionModel, Labelled, Pipeline, Quantiles, RegisteredModel, SqlModel, Structs
from forecache.kit.delta.tables import table_exists
from forecache.lake.ledger import all_records, last_record
from forecache.models.registry.applied.pipeline_models import models_of
from forecache.models.registry.applied.resolve import number_model, recorded_models
from forecache.models.tracking.artifacts import download_artifact
from forecache.models.tracking.client import connect_mlflow
from forecache.plugins.doctor.checks import check_registered_models
from forecache.scoring.run import score

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

URI = "models:/churn_model@production"
ROWS = 1500
SQL = """
    CASE WHEN f0 IS NULL THEN 0.5  -- nothing is known of them
         WHEN f0 < 0 THEN 0.1 / (1 + exp(-1.5 * f1 * f2))
         ELSE 1 / (1 + exp(-1.5 * f1 * f2)) END
"""


@pytest.fixture
def lake(settings: Settings) -> Settings:
    """A night of features in three files."""
    tables = [features_table(ROWS // 3, num_features=4, seed=i, first=i * (ROWS // 3)) for i in range(3)]
    write_features(settings, applied(SqlModel("f0")), tables)
    return settings


def feature_columns(settings: Settings) -> dict[str, np.ndarray]:
    table = DeltaTable(settings.table_uri("features_demo")).to_pyarrow_table().sort_by("user_id")
    return {name: table[name].to_numpy() for name in NAMES}


def test_an_xgboost_model_that_mlflow_logs_here_is_applied_and_one_of_another_major_version_fails_the_doctor(
    lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.xgboost
    import xgboost

    quiet()
    prepare(lake)
    connect_mlflow(lake)
    found = xgboost.__version__
    frame = pd.DataFrame(feature_columns(lake)).fillna(0.0).astype(np.float32)
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(frame, frame["f1"] > 0), 5)
    expected = booster.predict(xgboost.DMatrix(frame))
    with mlflow.start_run(experiment_id=mlflow.create_experiment("others")):  # an active one would stay for later tests
        mlflow.xgboost.log_model(
            booster,
            name="model",
            signature=mlflow.models.infer_signature(frame, expected),
            registered_model_name="churn_model",
            model_format="json",
            # As MLflow infers them, which takes it 13 s.
            pip_requirements=[f"{name}=={found}" for name in ("xgboost-cpu", "xgboost")],
        )
    connect_mlflow(lake).set_registered_model_alias("churn_model", "production", "1")
    pipeline = applied(RegisteredModel(URI))
    project = type("Project", (), {"pipelines": {"demo": pipeline}})
    monkeypatch.setattr("forecache.declare.loading.read_project", lambda _: project)
    assert check_registered_models(lake).state == "ok"
    run(lake, pipeline)
    missing = np.isnan(np.stack(list(feature_columns(lake).values()))).any(axis=0)
    scored = predictions(lake, pipeline)["probability"].to_numpy()
    assert np.array_equal(scored[~missing], expected[~missing])

    folder = Path(shutil.copytree(download_artifact(lake, artifact_uri="models:/churn_model/1"), tmp_path / "older"))
    (folder / "requirements.txt").write_text("xgboost==1.7.6")
    register(lake, folder)
    finding = check_registered_models(lake)
    assert finding.state == "fail"
    assert "The model needs xgboost==1.7.6, and version" in finding.found


def run(settings: Settings, pipeline: Pipeline, **more: Any) -> StageResult:
    return score(settings, pipeline, [NIGHT], engine="arrow", **more)


def column(settings: Settings, pipeline: Pipeline, name: str = "probability") -> list[Any]:
    return list(predictions(settings, pipeline)[name].to_pylist())


def test_a_moved_alias_scores_the_night_again_and_an_unmoved_one_does_nothing(lake: Settings, tmp_path: Path) -> None:
    pipeline = applied(RegisteredModel(URI))
    first = register(lake, onnx_model(tmp_path / "one"))
    assert run(lake, pipeline, run_id="the run").details["model"] == f"churn_model@{first}"
    before = column(lake, pipeline)
    assert run(lake, pipeline).skipped
    second = register(lake, onnx_model(tmp_path / "two", seed=1), alias="")
    assert run(lake, pipeline).skipped
    connect_mlflow(lake).set_registered_model_alias("churn_model", "production", str(second))
    assert run(lake, pipeline).details["scored_rows"] == ROWS
    rows = predictions(lake, pipeline)
    assert (set(rows["model_name"].to_pylist()), set(rows["model_version"].to_pylist())) == ({"churn_model"}, {second})
    assert rows["probability"].to_pylist() != before
    last = last_record(lake, "score", "demo", NIGHT)
    assert last is not None
    assert f"model=churn_model@{second} " in last.inputs
    after = column(lake, pipeline)
    for version, values in ((first, before), (second, after), (first, before)):
        connect_mlflow(lake).set_registered_model_alias("churn_model", "production", str(version))
        assert not run(lake, pipeline).skipped
        assert column(lake, pipeline) == values
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(run, lake, pipeline, rebuild=True) for _ in range(2)]
        connect_mlflow(lake).set_registered_model_alias("churn_model", "production", str(second))
        scored = {each.result().details["model"] for each in both}
    assert scored <= {f"churn_model@{first}", f"churn_model@{second}"}
    run(lake, pipeline)
    assert column(lake, pipeline) == after


def test_a_version_and_a_run_name_the_same_model(lake: Settings, tmp_path: Path) -> None:
    import mlflow

    by_version = applied(RegisteredModel(f"models:/churn_model/{register(lake, onnx_model(tmp_path / 'one'))}"))
    run(lake, by_version)
    expected = column(lake, by_version)
    connect_mlflow(lake)
    with mlflow.start_run(experiment_id="0") as made:
        mlflow.log_artifacts(str(tmp_path / "one"), "model")
    by_run = applied(RegisteredModel(f"runs:/{made.info.run_id}/model"))
    result = run(lake, by_run)
    assert result.details["model"] == "demo@1"
    assert column(lake, by_run) == expected
    recorded = {name: value for name, value in recorded_models(lake, "demo")[1].details.items() if name != "cost"}
    assert recorded == {
        "uri": by_run.model.uri,  # type: ignore[union-attr]
        "mlflow_run_id": made.info.run_id,
    }


@pytest.mark.slow
def test_both_engines_score_every_kind_alike_to_the_bit(spark: "SparkSession", lake: Settings, tmp_path: Path) -> None:
    register(lake, onnx_model(tmp_path / "onnx"), name="network")
    sklearn_model(tmp_path / "sklearn")
    register(lake, tmp_path / "sklearn", name="forest")
    kinds: Sequence[Any] = (
        RegisteredModel("models:/network@production"),
        RegisteredModel("models:/forest@production", returns={"probability": "prediction[1]"}),
        FunctionModel(functions.rules),
        SqlModel(SQL),
    )
    for model in kinds:
        pipeline = applied(model)
        run(lake, pipeline)
        by_arrow = column(lake, pipeline)
        result = score(lake, pipeline, [NIGHT], rebuild=True)
        assert result.details["scored_rows"] == ROWS
        assert column(lake, pipeline) == by_arrow, model


def test_a_function_is_what_numpy_makes_of_it(lake: Settings) -> None:
    pipeline = applied(FunctionModel(functions.rules))
    result = run(lake, pipeline)
    assert result.details["plan"]["runtime"] == "function"
    assert column(lake, pipeline) == functions.rules(feature_columns(lake)).tolist()
    rows = predictions(lake, pipeline)
    assert (set(rows["model_name"].to_pylist()), set(rows["model_version"].to_pylist())) == ({"demo"}, {1})
    assert run(lake, pipeline).skipped


def test_an_expression_is_what_the_function_computes(lake: Settings) -> None:
    pipeline = applied(SqlModel(SQL))
    assert run(lake, pipeline).details["plan"]["runtime"] == "sql"
    np.testing.assert_allclose(column(lake, pipeline), functions.rules(feature_columns(lake)), rtol=1e-5)


def test_changed_code_is_another_number_and_the_old_code_has_its_own_again(lake: Settings) -> None:
    versions = []
    for model in (SqlModel("0.5"), FunctionModel(functions.rules), SqlModel("0.25"), SqlModel("0.5")):
        result = run(lake, applied(model))
        assert not result.skipped
        versions.append(result.details["model"])
    assert versions == ["demo@1", "demo@2", "demo@3", "demo@1"]
    found = recorded_models(lake, "demo")[2].details
    assert found["function"] == "rules_project.pipelines.rules:rules"
    assert found["cost"]["core_s"] >= 0


def test_models_that_are_met_at_once_get_one_number_each(settings: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda i: number_model(settings, "demo", f"model {i % 3}", {}, run_id=""), range(12)))
    by_model = {i: {numbers[j] for j in range(i, 12, 3)} for i in range(3)}
    again = {i: number_model(settings, "demo", f"model {i}", {}, run_id="") for i in range(3)}
    assert sorted(again.values()) == [1, 2, 3]
    assert all(again[i] in by_model[i] for i in range(3))


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        (functions.compared, CheckError, "gives a row another 'probability' among other rows"),
        (functions.short, CheckError, r"returned \(1,\) of 'probability' for 1024 rows"),
        (functions.failing, InputError, "failed: KeyError: 'age'"),
        (functions.greedy, InputError, "failed: ValueError: assignment destination is read-only"),
        (functions.two_outputs, CheckError, "returned probability, rank, and probability are declared"),
    ],
)
def test_a_function_that_is_wrong_is_refused_and_nothing_is_written(
    lake: Settings, function: Any, error: type[Exception], said: str
) -> None:
    pipeline = applied(FunctionModel(function))
    with pytest.raises(error, match=said):
        run(lake, pipeline)
    assert not table_exists(lake, pipeline.prediction_table)


def test_a_function_of_other_code_than_the_drivers_does_not_score(lake: Settings, monkeypatch: Any) -> None:
    pipeline = applied(FunctionModel(functions.rules))
    other = dataclasses.replace(pipeline.fingerprints, training="0123456789abcdef")
    monkeypatch.setitem(vars(pipeline), "fingerprints", other)
    with pytest.raises(InputError, match="is other code where it is to score"):
        run(lake, pipeline)


def test_predictions_beyond_the_declared_limits_are_refused_and_not_cut_off(lake: Settings) -> None:
    pipeline = applied(SqlModel("f1 * 10"))
    with pytest.raises(CheckError, match="probability"):
        run(lake, pipeline)
    assert not table_exists(lake, pipeline.prediction_table) or not predictions(lake, pipeline).num_rows


@pytest.mark.parametrize("model", [FunctionModel(functions.rules), SqlModel(SQL), "sklearn"])
def test_an_incremental_night_is_that_of_a_full_run_to_the_bit(lake: Settings, tmp_path: Path, model: Any) -> None:
    if model == "sklearn":
        sklearn_model(tmp_path / "model")
        register(lake, tmp_path / "model")
        model = RegisteredModel(URI, returns={"probability": "prediction[1]"})
    pipeline = applied(model)
    run(lake, pipeline)
    later = NIGHT + timedelta(days=1)
    parts = [features_table(ROWS // 3, num_features=4, seed=i, first=i * (ROWS // 3), night=later) for i in (0, 1)]
    write_features(
        lake, pipeline, [*parts, features_table(77, num_features=4, seed=9, night=later, first=1000)], night=later
    )
    by_change = score(lake, pipeline, [later], engine="arrow", mode="incremental")
    assert by_change.details["carried_rows"] == 1000
    incremental = predictions(lake, pipeline, night=later)["probability"].to_pylist()
    assert score(lake, pipeline, [later], engine="arrow", rebuild=True).details["scored_rows"] == 1077
    assert predictions(lake, pipeline, night=later)["probability"].to_pylist() == incremental


def test_an_expression_that_fails_on_a_value_says_so(lake: Settings) -> None:
    pipeline = applied(SqlModel("CAST(CASE WHEN f1 > 0 THEN 'high' ELSE '0' END AS DOUBLE)"))
    with pytest.raises(InputError, match="expression of the model failed: Conversion Error.*'high'"):
        run(lake, pipeline)


def test_a_classifier_gives_the_probability_that_is_asked_for(lake: Settings, tmp_path: Path) -> None:
    import pandas as pd

    estimator = sklearn_model(tmp_path / "model")
    register(lake, tmp_path / "model")
    with pytest.raises(InputError, match=r"returns 2 values a row of 'prediction'.*returns=\{'probability': 'predict"):
        run(lake, applied(RegisteredModel(URI)))
    three = Quantiles("spend", (0.1, 0.5, 0.9))
    with pytest.raises(InputError, match=r"returns 2 values a row of 'prediction', and the output 'spend' has 3\."):
        run(lake, applied(RegisteredModel(URI), outputs=(three,), segments=()))
    with pytest.raises(InputError, match=r"there is no \[2\]"):
        run(lake, applied(RegisteredModel(URI, returns={"probability": "prediction[2]"})))
    with pytest.raises(InputError, match="returns prediction, and the output 'probability' is to be 'score'"):
        run(lake, applied(RegisteredModel(URI, returns={"probability": "score"})))
    pipeline = applied(RegisteredModel(URI, returns={"probability": "prediction[1]"}))
    run(lake, pipeline)
    expected = estimator.predict_proba(pd.DataFrame(feature_columns(lake)))[:, 1]
    np.testing.assert_allclose(column(lake, pipeline), expected, rtol=1e-5)
    run(lake, applied(RegisteredModel(URI, returns={"probability": "prediction[0]"})))
    np.testing.assert_allclose(column(lake, pipeline), 1 - expected, atol=1e-6)


def test_a_model_that_does_not_fit_the_features_is_refused_before_a_row_is_scored(
    lake: Settings, tmp_path: Path
) -> None:
    import mlflow.onnx
    import onnx
    from mlflow.models import infer_signature
    from scoring_support import network

    pipeline = applied(RegisteredModel(URI))
    register(lake, onnx_model(tmp_path / "names", names=["f0", "age"]))
    with pytest.raises(InputError, match="takes the column 'age', which is not a feature. The features of pipeline"):
        run(lake, pipeline)
    register(lake, onnx_model(tmp_path / "kinds", kind="string"))
    with pytest.raises(InputError, match="takes the column 'f0' as string, and the feature is a number"):
        run(lake, pipeline)
    graph = onnx.load_from_string(network(6))
    matrix = infer_signature(np.zeros((2, 6), np.float32), np.zeros((2, 1), np.float32))
    mlflow.onnx.save_model(graph, str(tmp_path / "width"), signature=matrix, pip_requirements=["onnxruntime"])
    register(lake, tmp_path / "width")
    with pytest.raises(InputError, match="takes a matrix of 6 columns, and pipeline 'demo' has 4 features"):
        run(lake, pipeline)
    mlflow.onnx.save_model(graph, str(tmp_path / "none"), pip_requirements=["onnxruntime"])
    register(lake, tmp_path / "none")
    with pytest.raises(InputError, match="was logged without a signature of its inputs"):
        run(lake, pipeline)
    assert not table_exists(lake, pipeline.prediction_table)


def test_a_model_takes_its_columns_by_name_out_of_more_features(lake: Settings, tmp_path: Path) -> None:
    pipeline = applied(RegisteredModel(URI))
    register(lake, onnx_model(tmp_path / "few", names=["f3", "f1"]))
    run(lake, pipeline)
    few = column(lake, pipeline)
    backwards = dataclasses.replace(pipeline.features, columns=pipeline.features.columns[::-1])
    run(lake, dataclasses.replace(pipeline, features=backwards))
    assert column(lake, pipeline) == few


def test_a_pickle_is_not_loaded_unless_it_is_allowed(
    lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = applied(RegisteredModel(URI, returns={"probability": "prediction[1]"}))
    sklearn_model(tmp_path / "model", format="cloudpickle")
    register(lake, tmp_path / "model")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with pytest.raises(InputError, match="cannot be loaded: Deserializing this model is disallowed"):
        run(lake, pipeline)
    assert not table_exists(lake, pipeline.prediction_table)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    assert run(lake, pipeline).rows == ROWS


def test_what_mlflow_does_not_have_is_said_in_a_sentence(lake: Settings, tmp_path: Path) -> None:
    prepare(lake)
    for uri in (URI, "models:/churn_model/3", "runs:/0123456789abcdef0123456789abcdef/model"):
        with pytest.raises(NotFoundError, match=f"MLflow has no {uri}: "):
            run(lake, applied(RegisteredModel(uri)))
    version = register(lake, onnx_model(tmp_path / "one"), alias="staging")
    for uri in (URI, f"models:/churn_model/{version + 1}"):
        with pytest.raises(NotFoundError, match=f"MLflow has no {uri}: "):
            run(lake, applied(RegisteredModel(uri)))


def test_a_model_whose_files_are_gone_is_said_in_a_sentence(lake: Settings, tmp_path: Path) -> None:
    register(lake, onnx_model(tmp_path / "one"))
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(NotFoundError, match="The files of the model models:/churn_model/1 cannot be read: "):
        run(lake, applied(RegisteredModel(URI)))


def test_a_server_that_is_away_is_said_in_a_sentence(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    pipeline = applied(RegisteredModel(URI))
    away = lake.model_copy(update={"mlflow_uri": "http://somebody:hunter2@127.0.0.1:9"})
    for ask in (lambda: run(away, pipeline), lambda: models_of(away, pipeline)):
        with pytest.raises(UnavailableError, match="MLflow cannot be asked for models:/churn_model@prod") as told:
            ask()
        assert "hunter2" not in "".join(traceback.format_exception(told.value))


def labelled(settings: Settings, uri: str, *, rows: int = 400) -> None:
    """Rows of the features, and a label that is 1 where f1 + f2 is positive; every tenth is unknown."""
    table = features_table(rows, num_features=4, seed=5).drop_columns(["user_id", "as_of"])
    label = (table["f1"].to_numpy() + table["f2"].to_numpy() > 0).astype(float)
    write_deltalake(uri, table.append_column("churned", pa.array(label, mask=np.arange(rows) % 10 == 0)))


def test_a_version_that_misses_its_floors_leaves_the_last_accepted_one(lake: Settings, tmp_path: Path) -> None:
    labelled(lake, str(tmp_path / "labelled"))
    model = RegisteredModel(
        URI,
        returns={"probability": "prediction[1]"},
        judged_on=Labelled(str(tmp_path / "labelled"), "churned"),
        floors={"roc_auc": 0.9, "log_loss": 0.5},
    )
    pipeline = applied(model)
    sklearn_model(tmp_path / "bad", backwards=True)
    register(lake, tmp_path / "bad")
    with pytest.raises(CheckError, match="does not reach its floors, and no version did before: roc_auc 0.0"):
        run(lake, pipeline)
    sklearn_model(tmp_path / "good")
    good = register(lake, tmp_path / "good")
    result = run(lake, pipeline)
    assert result.details["model"] == f"churn_model@{good}"
    assert result.details["judged"]["accepted"]
    bad = register(lake, tmp_path / "bad")
    result = run(lake, pipeline)
    assert (result.skipped, result.details["model"]) == (True, f"churn_model@{good}")
    assert not result.details["judged"]["accepted"]
    assert f"Version {good} stays: version {bad} misses its floors: roc_auc" in result.details["judged"]["reason"]
    assert "on 360 rows" in result.details["judged"]["reason"]
    run(lake, pipeline)
    connect_mlflow(lake).delete_model_version("churn_model", str(good))
    with pytest.raises(CheckError, match="does not reach its floors, and those that did are deleted: roc_auc"):
        run(lake, pipeline)
    verdicts = [row.details for row in all_records(lake, "judge", "demo")]
    assert [(found["version"], found["accepted"], found["cost"]["core_s"] > 0) for found in verdicts] == [
        (1, False, True),
        (2, True, True),
        (3, False, True),
    ]


def test_a_version_is_judged_again_where_its_floors_or_its_output_are_others(lake: Settings, tmp_path: Path) -> None:
    labelled(lake, str(tmp_path / "labelled"))
    model = RegisteredModel(
        URI,
        returns={"probability": "prediction[1]"},
        judged_on=Labelled(str(tmp_path / "labelled"), "churned"),
        floors={"roc_auc": 0.6},
    )
    sklearn_model(tmp_path / "good")
    sklearn_model(tmp_path / "bad", backwards=True)
    good = register(lake, tmp_path / "good")
    run(lake, applied(model))
    raised = applied(dataclasses.replace(model, floors={"roc_auc": 0.9999}))
    with pytest.raises(CheckError, match="does not reach its floors, and no version did before"):
        run(lake, raised)
    register(lake, tmp_path / "bad")
    higher = applied(dataclasses.replace(model, floors={"roc_auc": 0.9}))
    result = run(lake, higher)  # the version that reached the former floors is judged by these
    assert (result.details["model"], result.details["judged"]["accepted"]) == (f"churn_model@{good}", False)
    with pytest.raises(CheckError, match="does not reach its floors, and no version did before"):
        run(lake, raised)
    judged = len(all_records(lake, "judge", "demo"))
    run(lake, higher)
    assert len(all_records(lake, "judge", "demo")) == judged
    classes = Classes("answered", ("yes", "no"))
    write_deltalake(
        str(tmp_path / "named"),
        DeltaTable(str(tmp_path / "labelled")).to_pyarrow_table().append_column("answer", pa.array(["yes"] * 400)),
    )
    about = dataclasses.replace(
        model, returns={}, judged_on=Labelled(str(tmp_path / "named"), "answer"), floors={"accuracy": 0.0}
    )
    by_order = [
        run(lake, applied(about, outputs=(each,), segments=())).details["judged"]["reason"]
        for each in (classes, dataclasses.replace(classes, labels=("no", "yes")))
    ]
    assert by_order[0] != by_order[1]


def test_a_model_that_was_deleted_and_registered_anew_scores_again(lake: Settings, tmp_path: Path) -> None:
    pipeline = applied(RegisteredModel("models:/churn_model/1"))
    register(lake, onnx_model(tmp_path / "one", seed=1), alias="")
    run(lake, pipeline)
    assert run(lake, pipeline).skipped
    before = column(lake, pipeline)
    connect_mlflow(lake).delete_registered_model("churn_model")
    assert register(lake, onnx_model(tmp_path / "two", seed=2), alias="") == 1
    assert not run(lake, pipeline).skipped
    assert column(lake, pipeline) != before


@pytest.mark.parametrize(
    ("label", "table", "error", "said"),
    [
        ("churned", "nowhere", NotFoundError, "labelled table '.*nowhere' cannot be read"),
        ("gone", "labelled", InputError, "has no column 'gone'"),
        ("f2", "labelled", InputError, "its floors are of a binary label"),
        ("none", "labelled", InputError, "has no row with a 'none'"),
        ("word", "labelled", InputError, "does not fit the features"),
    ],
)
def test_a_labelled_table_that_does_not_fit_is_refused(
    lake: Settings, tmp_path: Path, label: str, table: str, error: type[Exception], said: str
) -> None:
    rows = features_table(50, num_features=4).drop_columns(["user_id", "as_of"])
    rows = rows.append_column("churned", pa.array([1.0, 0.0] * 25)).append_column("word", pa.array(["no"] * 50))
    write_deltalake(str(tmp_path / "labelled"), rows.append_column("none", pa.nulls(50, pa.float64())))
    register(lake, onnx_model(tmp_path / "one"))
    judged_on = Labelled(str(tmp_path / table), label)
    with pytest.raises(error, match=said):
        run(lake, applied(RegisteredModel(URI, judged_on=judged_on, floors={"roc_auc": 0.1})))
    assert not all_records(lake, "judge", "demo")


def test_floors_of_classes_need_their_probabilities(lake: Settings, tmp_path: Path) -> None:
    labelled(lake, str(tmp_path / "labelled"))
    sklearn_model(tmp_path / "names", proba=False)
    register(lake, tmp_path / "names")
    named = applied(
        RegisteredModel(URI, judged_on=Labelled(str(tmp_path / "labelled"), "churned"), floors={"accuracy": 0.5}),
        outputs=(Classes("answer", ("0", "1"), probabilities=0),),
        segments=(),
    )
    with pytest.raises(InputError, match="returns the classes of 'answer' without their probabilities, by which"):
        run(lake, named)


LISTS = """
import mlflow


class Lists(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [
            [{"item": f"i{n}", "score": round(float(value), 3)} for n in range(int(abs(value)) % 3)]
            for value in model_input["f0"]FILLED
        ]


mlflow.models.set_model(Lists())
"""


def lists_model(folder: Path, filled: str) -> Path:
    """A model that returns lists of structures, and fails where `f0` is unknown unless it is filled."""
    import mlflow
    from mlflow.types.schema import Array, ColSpec, Object, Property, Schema

    quiet()
    items = Array(Object([Property("item", "string"), Property("score", "double")]))
    code = folder.with_suffix(".py")
    code.write_text(LISTS.replace("FILLED", filled))
    signature = mlflow.models.ModelSignature(Schema([ColSpec("double", "f0")]), Schema([ColSpec(items, "items")]))
    mlflow.pyfunc.save_model(str(folder), python_model=str(code), signature=signature, pip_requirements=[])
    return folder


def test_a_registered_model_returns_lists_of_structures(spark: "SparkSession", lake: Settings, tmp_path: Path) -> None:
    fields = (("item", "string"), ("score", "double"))
    pipeline = applied(RegisteredModel(URI), outputs=(Structs("items", fields),), segments=())
    register(lake, lists_model(tmp_path / "failing", ""))
    with pytest.raises(InputError, match="The model failed: ValueError: cannot convert float NaN to integer"):
        run(lake, pipeline)
    register(lake, lists_model(tmp_path / "filled", ".fillna(0)"))
    run(lake, pipeline)
    found = predictions(lake, pipeline).sort_by("user_id")["items"].to_pylist()
    assert found == [
        [{"item": f"i{n}", "score": round(float(value), 3)} for n in range(int(abs(value)) % 3)]
        for value in np.nan_to_num(feature_columns(lake)["f0"])
    ]
    assert {len(each) for each in found} == {0, 1, 2}
    score(lake, pipeline, [NIGHT], engine="spark", rebuild=True)
    assert predictions(lake, pipeline).sort_by("user_id")["items"].to_pylist() == found
    with pytest.raises(CheckError, match="lists of 'items' that do not fit"):
        run(lake, applied(RegisteredModel(URI), outputs=(Structs("items", (("item", "bigint"),)),), segments=()))


def test_the_classes_of_an_estimator_are_those_that_it_says(lake: Settings, tmp_path: Path) -> None:
    estimator = sklearn_model(tmp_path / "two")
    register(lake, tmp_path / "two")
    outputs = {
        labels: applied(RegisteredModel(URI), outputs=(Classes("answer", labels),), segments=())
        for labels in (None, ("0", "1"), ("1", "0"), ("no", "yes"), ("a", "b", "c"))
    }
    found = {}
    for labels in (None, ("0", "1"), ("no", "yes")):
        run(lake, outputs[labels])
        found[labels] = predictions(lake, outputs[labels]).sort_by("user_id")["answer"].to_pylist()
    frame = pd.DataFrame(feature_columns(lake))
    assert found[None] == found["0", "1"] == [str(each) for each in estimator.predict(frame)]
    assert found["no", "yes"] == ["yes" if each else "no" for each in estimator.predict(frame)]
    with pytest.raises(InputError, match="The model knows the classes 0, 1 of 'answer', and the pipeline declares"):
        run(lake, outputs["1", "0"])
    with pytest.raises(InputError, match="returns 2 values a row of 'prediction', and the output 'answer' has 3"):
        run(lake, outputs["a", "b", "c"])
