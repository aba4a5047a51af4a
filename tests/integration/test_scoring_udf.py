"""The column function scores every kind of MLflow model as mlflow does, called in every way that mlflow allows."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scoring_support import column_signature, make_pipeline, network, quiet, register_model, save_onnx

from forecache.base.errors import InputError, NotFoundError, SettingsError
from forecache.scoring import scoring_udf

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from forecache.base.settings import Settings

WIDTH = 5
NAMES = [f"f{i}" for i in range(WIDTH)]
ROWS = np.random.default_rng(3).standard_normal((400, WIDTH)).astype(np.float32)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def frame(spark: "SparkSession") -> "DataFrame":
    from pyspark.sql import functions as F

    table = pa.table({"id": np.arange(len(ROWS)), **{name: ROWS[:, i] for i, name in enumerate(NAMES)}})
    made = spark.createDataFrame(table.to_pandas()).repartition(3)
    return made.withColumn("features", F.array(*NAMES)).withColumn("row", F.struct(*reversed(NAMES))).cache()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def onnx_model(models: Path) -> str:
    return str(save_onnx(models / "onnx", network(WIDTH, output="p"), column_signature(NAMES, {"p": "float"})))


def collect(frame: "DataFrame", column: Any) -> np.ndarray:
    rows = frame.select("id", column.alias("p")).toArrow().sort_by("id")
    return np.array(rows["p"].to_pylist())


def reference(uri: str, *, config: dict[str, Any] | None = None, tensor: bool = False) -> np.ndarray:
    import mlflow.pyfunc

    data = ROWS if tensor else pd.DataFrame(ROWS, columns=NAMES)
    result = mlflow.pyfunc.load_model(uri, model_config=config).predict(data)
    if isinstance(result, pd.DataFrame):
        result = result.iloc[:, 0].to_numpy()
    return np.asarray(result).reshape(len(ROWS), -1).squeeze()


def test_an_onnx_model_gives_what_mlflow_gives_however_it_is_called(
    spark: "SparkSession", frame: "DataFrame", onnx_model: str
) -> None:
    model = scoring_udf(spark, onnx_model)
    assert model.plan["runtime"] == "onnx"
    assert model.returns.simpleString() == "float"
    expected = reference(onnx_model)
    for called in (model("features"), model("row"), model(*NAMES), model(), model(frame["features"])):
        np.testing.assert_array_equal(collect(frame, called), expected)


def test_a_result_type_widens_and_keeps_its_values(spark: "SparkSession", frame: "DataFrame", onnx_model: str) -> None:
    model = scoring_udf(spark, onnx_model, result_type="double")
    assert model.returns.simpleString() == "double"
    np.testing.assert_array_equal(collect(frame, model("features")), reference(onnx_model).astype(float))


def test_a_result_type_that_does_not_fit_is_refused_before_any_task(spark: "SparkSession", onnx_model: str) -> None:
    with pytest.raises(SettingsError, match="result_type is string, and the model returns float"):
        scoring_udf(spark, onnx_model, result_type="string")


def test_nulls_reach_the_model_as_nan(spark: "SparkSession", frame: "DataFrame", onnx_model: str) -> None:
    from pyspark.sql import functions as F

    model = scoring_udf(spark, onnx_model)
    holes = frame.withColumn("f1", F.when(F.col("id") % 2 == 0, F.col("f1")))
    zeros = frame.withColumn("f1", F.when(F.col("id") % 2 == 0, F.col("f1")).otherwise(F.lit(0.0).cast("float")))
    np.testing.assert_array_equal(collect(holes, model(*NAMES)), collect(zeros, model(*NAMES)))
    np.testing.assert_array_equal(collect(holes, model(F.array(*NAMES))), collect(zeros, model(*NAMES)))


def test_features_of_another_width_say_so(spark: "SparkSession", frame: "DataFrame", onnx_model: str) -> None:
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    with pytest.raises(PySparkException, match="The model takes 5 features and was given 4"):
        frame.select(scoring_udf(spark, onnx_model)(F.array(*NAMES[:4]))).collect()
    with pytest.raises(SettingsError, match="takes 5 columns"):
        scoring_udf(spark, onnx_model)("f0", "f1")


def test_several_outputs_become_a_struct(spark: "SparkSession", frame: "DataFrame", models: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = onnx.load_from_string(network(WIDTH, output="p"))
    graph.graph.node.append(helper.make_node("Neg", ["p"], ["minus"]))
    graph.graph.output.append(helper.make_tensor_value_info("minus", TensorProto.FLOAT, [None, 1]))
    uri = str(
        save_onnx(models / "two", graph.SerializeToString(), column_signature(NAMES, {"minus": "float", "p": "double"}))
    )
    model = scoring_udf(spark, uri)
    assert model.returns.simpleString() == "struct<minus:float,p:double>"
    scored = frame.select("id", model("features").alias("s")).select("id", "s.*").toArrow().sort_by("id")
    np.testing.assert_array_equal(scored["minus"].to_numpy(), -scored["p"].to_numpy().astype(np.float32))
    picked = scoring_udf(spark, uri, result_type="p double")
    assert picked.returns.simpleString() == "struct<p:double>"
    assert collect(frame, picked("features")["p"]).tolist() == scored["p"].to_pylist()


def test_a_torch_export_is_scored_by_torch(spark: "SparkSession", frame: "DataFrame", models: Path) -> None:
    import mlflow.pytorch
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    quiet()
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(WIDTH, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    kind = np.dtype(np.float32)
    signature = ModelSignature(Schema([TensorSpec(kind, (-1, WIDTH))]), Schema([TensorSpec(kind, (-1, 1), "p")]))
    folder = models / "torch"
    mlflow.pytorch.save_model(
        module, str(folder), signature=signature, input_example=ROWS[:4], pip_requirements=["torch"]
    )
    model = scoring_udf(spark, str(folder))
    assert model.plan["runtime"] == "torch"
    with torch.inference_mode():
        expected = module(torch.from_numpy(ROWS)).numpy()[:, 0]
    np.testing.assert_allclose(collect(frame, model("features")), expected, rtol=1e-5, atol=1e-6)
    by_pyfunc = scoring_udf(spark, str(folder), runtime="pyfunc")
    np.testing.assert_allclose(collect(frame, by_pyfunc("features")), expected, rtol=1e-5, atol=1e-6)


def test_a_lightgbm_booster_is_scored_by_lightgbm(spark: "SparkSession", frame: "DataFrame", models: Path) -> None:
    import lightgbm
    import mlflow.lightgbm

    quiet()
    data = lightgbm.Dataset(ROWS, label=(ROWS[:, 0] > 0).astype(int))
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_leaves": 7}, data, num_boost_round=20)
    folder = models / "lightgbm"
    mlflow.lightgbm.save_model(
        booster, str(folder), signature=column_signature(NAMES, {"p": "double"}), pip_requirements=["lightgbm"]
    )
    model = scoring_udf(spark, str(folder))
    assert model.plan["runtime"] == "lightgbm"
    np.testing.assert_array_equal(collect(frame, model("features")), reference(str(folder)))


@pytest.mark.parametrize(("trained_on", "runtime"), [(NAMES, "xgboost"), (None, "xgboost"), (NAMES[::-1], "pyfunc")])
def test_an_xgboost_booster_is_given_the_columns_that_it_was_trained_on(
    tmp_path: Path, trained_on: list[str] | None, runtime: str
) -> None:
    import mlflow.xgboost
    import xgboost

    from forecache.models.inference.choose_runtime import plan_scoring

    quiet()
    data = xgboost.DMatrix(ROWS, label=(ROWS[:, 0] > 0).astype(int), feature_names=trained_on)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 2)
    signature = column_signature(NAMES, {"p": "float"})
    folder = tmp_path / "model"
    mlflow.xgboost.save_model(
        booster, str(folder), model_format="json", signature=signature, pip_requirements=["xgboost-cpu"]
    )
    plan = plan_scoring(str(folder))
    assert plan.spec.runtime == runtime
    assert ("in another order" in plan.reason) == (runtime == "pyfunc")


def test_a_scikit_learn_model_is_scored_by_pyfunc(
    spark: "SparkSession", frame: "DataFrame", models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    quiet()
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    folder = models / "sklearn"
    mlflow.sklearn.save_model(
        LogisticRegression().fit(ROWS, ROWS[:, 0] > 0),
        str(folder),
        signature=column_signature(NAMES, {"label": "boolean"}),
        pip_requirements=["scikit-learn"],
    )
    model = scoring_udf(spark, str(folder))
    assert model.plan["runtime"] == "pyfunc"
    assert "no such flavour" in model.plan["reason"]
    for called in (model("features"), model(*NAMES), model("row")):
        assert collect(frame, called).tolist() == reference(str(folder)).tolist()


CUSTOM = """
import os
import mlflow.pyfunc


class Shift(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.shift = context.model_config["shift"]
        with open(context.model_config["log"], "a") as log:
            log.write(f"{os.getpid()}\\n")

    def predict(self, context, model_input, params=None):
        return model_input["f0"] + self.shift


from mlflow.models import set_model
set_model(Shift())
"""


def test_a_python_model_gets_its_model_config_and_is_loaded_once_a_worker(
    spark: "SparkSession", frame: "DataFrame", models: Path, tmp_path: Path
) -> None:
    import mlflow.pyfunc

    quiet()
    code, log, folder = tmp_path / "shift.py", tmp_path / "loads.log", models / "custom"
    code.write_text(CUSTOM)
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(code),
        model_config={"shift": 1.0, "log": str(log)},
        signature=column_signature(NAMES, {"p": "float"}),
        pip_requirements=["numpy"],
    )
    model = scoring_udf(spark, str(folder), model_config={"shift": 5.0, "log": str(log)})
    assert model.plan["runtime"] == "pyfunc"
    log.write_text("")
    many = frame.repartition(12)
    for _ in range(2):
        np.testing.assert_allclose(collect(many, model(*NAMES)), ROWS[:, 0] + 5.0, rtol=1e-6)
    loads = log.read_text().split()
    assert len(loads) == len(set(loads)) <= 2
    with pytest.raises(SettingsError, match="cannot score this model: it was given a model_config"):
        scoring_udf(spark, str(folder), model_config={"shift": 5.0}, runtime="onnx")


def test_two_configurations_of_one_model_do_not_share_a_worker_s_cache(
    spark: "SparkSession", frame: "DataFrame", models: Path, tmp_path: Path
) -> None:
    folder, log = str(models / "custom"), str(tmp_path / "log")
    first = scoring_udf(spark, folder, model_config={"shift": 1.0, "log": log})
    second = scoring_udf(spark, folder, model_config={"shift": 2.0, "log": log})
    both = frame.select("id", first(*NAMES).alias("a"), second(*NAMES).alias("b")).toArrow()
    np.testing.assert_allclose(both["b"].to_numpy() - both["a"].to_numpy(), 1.0, rtol=1e-5)


def test_a_model_that_is_not_there_says_what_to_give(spark: "SparkSession") -> None:
    with pytest.raises(NotFoundError, match="models:/NAME@ALIAS"):
        scoring_udf(spark, "models:/nobody@champion")


def test_another_major_version_of_the_runtime_stops_before_any_task(
    spark: "SparkSession", models: Path, onnx_model: str
) -> None:
    import shutil

    folder = models / "old"
    shutil.copytree(onnx_model, folder)
    (folder / "requirements.txt").write_text("onnxruntime==0.9.0\n")
    with pytest.raises(InputError, match="needs onnxruntime==0.9.0"):
        scoring_udf(spark, str(folder))


MANY = """
import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import set_model


class Many(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return pd.DataFrame({
            "later": model_input["t"] + pd.Timedelta(hours=1),
            "length": [float(len(values)) for values in model_input["lists"]],
            "hour": model_input["t"].dt.hour.astype("int32"),
            "known": model_input["f0"].where(model_input["f0"] > 0),
            "ragged": [[1.0] * (hour % 3) for hour in model_input["t"].dt.hour],
            "word": "none" if "maybe" not in model_input else model_input["maybe"],
        })


set_model(Many())
"""


@pytest.mark.parametrize(
    "outputs",
    [
        {"length": "double", "hour": "integer", "known": "float", "word": "string", "ragged": "array"},
        {"later": "datetime"},
    ],
    ids=["struct", "moment"],
)
def test_lists_moments_and_columns_that_may_be_left_out_are_taken_and_returned_as_mlflow_does(
    spark: "SparkSession", frame: "DataFrame", tmp_path: Path, outputs: dict[str, str]
) -> None:
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema
    from pyspark.sql import functions as F

    quiet()
    (tmp_path / "many.py").write_text(MANY)
    takes = [
        ColSpec(Array(DataType.float), "lists"),
        ColSpec("datetime", "t"),
        ColSpec("float", "f0"),
        ColSpec("string", "maybe", required=False),
    ]
    kinds = {"array": Array(DataType.double)}
    returns = Schema([ColSpec(kinds.get(kind, kind), name) for name, kind in outputs.items()])
    uri = str(tmp_path / "many")
    mlflow.pyfunc.save_model(
        uri,
        python_model=str(tmp_path / "many.py"),
        signature=ModelSignature(Schema(takes), returns),
        pip_requirements=["numpy"],
    )
    given = frame.select(
        "id", "f0", F.col("features").alias("lists"), F.timestamp_seconds(F.col("id") * 3600).alias("t")
    )
    mlflows = mlflow.pyfunc.spark_udf(spark, uri, env_manager="local")
    zone = spark.conf.get("spark.sql.session.timeZone")
    try:
        spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
        ours = scoring_udf(spark, uri)
        for columns in (["lists", "t", "f0"], ["t", "f0", "lists", F.lit("yes").alias("maybe")]):
            both = given.select("id", ours(F.struct(*columns)).alias("a"), mlflows(F.struct(*columns)).alias("b"))
            rows = both.orderBy("id").toArrow()
            assert rows["a"].to_pylist() == rows["b"].to_pylist()
        if "word" in outputs:
            assert rows["a"].to_pylist()[0]["word"] == "yes"
            assert {row["known"] is None for row in rows["a"].to_pylist()} == {True, False}
    finally:
        spark.conf.set("spark.sql.session.timeZone", zone)


def test_one_array_column_is_the_models_where_it_takes_arrays(
    spark: "SparkSession", frame: "DataFrame", tmp_path: Path
) -> None:
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    quiet()
    code = (
        MANY.split("return")[0] + 'return np.array([values[1] for values in model_input["e"]])\n\n\nset_model(Many())\n'
    )
    (tmp_path / "model.py").write_text(code)
    signature = ModelSignature(Schema([ColSpec(Array(DataType.float), "e")]), Schema([ColSpec("float", "p")]))
    uri = str(tmp_path / "model")
    mlflow.pyfunc.save_model(
        uri, python_model=str(tmp_path / "model.py"), signature=signature, pip_requirements=["numpy"]
    )
    np.testing.assert_array_equal(collect(frame, scoring_udf(spark, uri)("features")), ROWS[:, 1])


def test_a_worker_with_another_version_of_the_runtime_than_the_driver_does_not_score(
    spark: "SparkSession", frame: "DataFrame", onnx_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyspark.errors import PySparkException

    from forecache.models.inference import choose_runtime as choice

    monkeypatch.setattr(choice, "deciding_versions", lambda path, runtime: {"onnxruntime": "0.1"})
    model = scoring_udf(spark, onnx_model)
    assert model.plan["packages"] == {"onnxruntime": "0.1"}
    with pytest.raises(PySparkException, match=r"The worker .* has onnxruntime .*, and the driver"):
        collect(frame, model("features"))


def test_two_models_of_the_same_graph_and_another_order_of_columns_do_not_share_a_kernel(
    spark: "SparkSession", frame: "DataFrame", models: Path, onnx_model: str
) -> None:
    names = [*reversed(NAMES)]
    other = str(save_onnx(models / "reversed", network(WIDTH, output="p"), column_signature(names, {"p": "float"})))
    first, second = scoring_udf(spark, onnx_model), scoring_udf(spark, other)
    both = frame.select("id", first("row").alias("a"), second("row").alias("b")).toArrow()
    assert both["a"].to_pylist() != both["b"].to_pylist()


def test_a_runtime_that_does_not_exist_is_refused_with_those_that_do(spark: "SparkSession", onnx_model: str) -> None:
    with pytest.raises(SettingsError, match="There is no runtime 'tensorflow'. The runtimes are auto, onnx"):
        scoring_udf(spark, onnx_model, runtime="tensorflow")


def test_a_model_is_found_by_its_alias_version_and_run(
    spark: "SparkSession", frame: "DataFrame", settings: "Settings", onnx_model: str, tmp_path: Path
) -> None:
    import mlflow
    import mlflow.onnx

    register_model(settings, make_pipeline(WIDTH))
    quiet()
    experiment = mlflow.create_experiment("logged", artifact_location=str(tmp_path / "artifacts"))
    with mlflow.start_run(experiment_id=experiment) as run:
        signature = column_signature(NAMES, {"probability": "float"})
        graph = mlflow.onnx.load_model(f"models:/{make_pipeline(WIDTH).name}@champion")
        mlflow.onnx.log_model(graph, name="network", signature=signature, pip_requirements=["onnxruntime"])
    models = [scoring_udf(spark, uri) for uri in ("models:/demo@champion", "models:/demo/1")]
    models.append(scoring_udf(spark, f"runs:/{run.info.run_id}/network"))
    first, *others = [collect(frame, model("features")).tolist() for model in models]
    assert others == [first, first]
