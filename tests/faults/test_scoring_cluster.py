"""On a real cluster: models reach executors without the driver's disk, and a worker may die during a run."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scoring_support import (
    NIGHT,
    column_signature,
    features_table,
    make_pipeline,
    network,
    predictions,
    quiet,
    register_model,
    save_onnx,
    write_features,
)
from spark_cluster import SHORT_JVM, Cluster, kill_group

from forecache.base.settings import Settings
from forecache.lake.ledger import last_record
from forecache.models.inference.kernel_spec import OUTPUTS
from forecache.scoring.run import score

pytestmark = [pytest.mark.slow, pytest.mark.faults]

FILES = 24
ROWS = 4_000
NAMES = [f"f{i}" for i in range(20)]

HEAD = """
import sys
sys.path.insert(0, "tests/support")
from forecache.kit.spark.session import spark_session
from forecache.base.settings import load_settings
settings = load_settings()
spark = spark_session(settings)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master and two workers for the whole file: the last test that uses them kills one."""
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        started.start(workers=2)
        yield started
    finally:
        started.stop()


def run(
    settings: Settings, cluster: Cluster, program: str, *arguments: str, conf: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    conf = {
        "spark.executor.memory": "512m",
        "spark.executor.cores": "1",
        "spark.cores.max": "2",
        "spark.executor.extraJavaOptions": SHORT_JVM,
    } | (conf or {})
    environment = {
        **os.environ,
        "FORECACHE_HOME": str(settings.home),
        "FORECACHE_SPARK_MASTER": cluster.url,
        "FORECACHE_SPARK_DRIVER_MEMORY": "1g",
        "FORECACHE_SPARK_CONF": json.dumps(conf | {"spark.driver.host": "127.0.0.1"}),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "FORECACHE_CODE_VERSION": "fixed",
    }
    command = [sys.executable, "-c", HEAD + program, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)


CUSTOM = """
import os, socket
import mlflow.pyfunc
from mlflow.models import set_model


class Shift(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.shift = context.model_config["shift"]
        with open(context.model_config["log"], "a") as log:
            log.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {os.environ['PACKED']}\\n")

    def predict(self, context, model_input, params=None):
        return model_input["f0"] + self.shift


set_model(Shift())
"""

APPLY = """
import json, shutil
import numpy as np
from forecache.scoring import scoring_udf
from pyspark.sql import functions as F
given = json.loads(sys.argv[1])
rows = spark.read.parquet(given["rows"]).repartition(8).withColumn("features", F.array(*given["names"])).cache()
rows.count()
models = {name: scoring_udf(spark, uri, model_config=config) for name, (uri, config) in given["models"].items()}
for uri, _ in given["models"].values():
    shutil.rmtree(uri)  # what a cluster's executors do not have
for name, model in models.items():
    for _ in range(2):
        scored = rows.select("id", model("features").cast("double").alias("p")).toArrow().sort_by("id")
    print(json.dumps([name, model.plan["runtime"], scored["p"].to_pylist()]), flush=True)
"""

WIDTH = 5


def save_models(folder: Path, rows: np.ndarray, loads: Path) -> dict[str, tuple[str, dict[str, Any] | None]]:
    """A model of every kind, by name: its folder and its model_config."""
    import lightgbm
    import mlflow.lightgbm
    import mlflow.pyfunc
    import mlflow.pytorch
    import mlflow.sklearn
    import mlflow.xgboost
    import torch
    import xgboost
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec
    from sklearn.linear_model import LogisticRegression

    quiet()
    names, label = NAMES[:WIDTH], (rows[:, 0] > 0).astype(int)
    number = column_signature(names, {"p": "double"})
    save_onnx(folder / "onnx", network(WIDTH, output="p"), column_signature(names, {"p": "float"}))
    torch.manual_seed(0)
    kind = np.dtype(np.float32)
    mlflow.pytorch.save_model(
        torch.nn.Sequential(torch.nn.Linear(WIDTH, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)),
        str(folder / "torch"),
        signature=ModelSignature(Schema([TensorSpec(kind, (-1, WIDTH))]), Schema([TensorSpec(kind, (-1, 1), "p")])),
        input_example=rows[:4],
        pip_requirements=["torch"],
    )
    trees = {"objective": "binary", "verbose": -1, "num_leaves": 7}
    booster = lightgbm.train(trees, lightgbm.Dataset(rows, label=label), num_boost_round=20)
    mlflow.lightgbm.save_model(booster, str(folder / "lightgbm"), signature=number, pip_requirements=["lightgbm"])
    boosted = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(rows, label=label), 20)
    mlflow.xgboost.save_model(
        boosted, str(folder / "xgboost"), model_format="json", signature=number, pip_requirements=["xgboost-cpu"]
    )
    estimator, boolean = LogisticRegression().fit(rows, label), column_signature(names, {"label": "integer"})
    mlflow.sklearn.save_model(
        estimator,
        str(folder / "pyfunc"),
        serialization_format="skops",
        signature=boolean,
        pip_requirements=["scikit-learn"],
    )
    mlflow.sklearn.save_model(
        estimator,
        str(folder / "sklearn"),
        serialization_format="skops",
        signature=number,
        metadata={OUTPUTS: [{"name": "p", "kind": "number", "minimum": 0.0, "maximum": 1.0}]},
        pip_requirements=["scikit-learn"],
    )
    code = folder / "shift.py"
    code.write_text(CUSTOM)
    mlflow.pyfunc.save_model(
        str(folder / "custom"),
        python_model=str(code),
        model_config={"shift": 1.0, "log": str(loads)},
        signature=column_signature(names, {"p": "float"}),
        pip_requirements=["numpy"],
    )
    kinds = ("onnx", "torch", "lightgbm", "xgboost", "sklearn", "pyfunc", "custom")
    config = {"shift": 5.0, "log": str(loads)}
    return {name: (str(folder / name), config if name == "custom" else None) for name in kinds}


def test_models_of_every_kind_reach_executors_that_share_no_disk_and_load_once(
    settings: Settings, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc

    rows = np.random.default_rng(3).standard_normal((400, WIDTH)).astype(np.float32)
    columns = {name: rows[:, i] for i, name in enumerate(NAMES[:WIDTH])}
    pq.write_table(pa.table({"id": np.arange(len(rows)), **columns}), tmp_path / "rows.parquet")
    loads = tmp_path / "loads.log"
    models = save_models(tmp_path, rows, loads)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PACKED", "no")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    expected = {}
    for name, (uri, config) in models.items():
        loaded = mlflow.pyfunc.load_model(uri, model_config=config)
        given = rows if name == "torch" else pd.DataFrame(columns)
        result = loaded.predict(given)
        expected[name] = np.asarray(result, np.float64).reshape(len(rows), -1)[:, 0]
    estimator = mlflow.sklearn.load_model(models["sklearn"][0])
    expected["sklearn"] = estimator.predict_proba(rows)[:, 1]
    loads.write_text("")
    given = {"rows": str(tmp_path / "rows.parquet"), "names": NAMES[:WIDTH], "models": models}
    # A packed environment has its interpreter at another path than the driver's.
    python = tmp_path / "env-python"
    python.write_text(f'#!/bin/sh\nPACKED=yes exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    process = run(settings, cluster, APPLY, json.dumps(given), conf={"spark.pyspark.python": str(python)})
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    told = [json.loads(line) for line in output.splitlines()]
    assert [name for name, _, _ in told] == list(models)
    for name, engine, values in told:
        assert engine == ("pyfunc" if name == "custom" else name)
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    # Sixteen tasks on two workers: each loaded the model once, and lets its libraries have one thread.
    workers = [line.split() for line in loads.read_text().splitlines()]
    assert len({process for process, *_ in workers}) == len(workers) <= 2
    assert {tuple(rest) for _, *rest in workers} == {("1", "yes")}


ENTRY_POINT = """
import os, subprocess
from pathlib import Path
from scoring_support import column_signature, network, save_onnx
from forecache.scoring import scoring_udf
from pyspark.sql import functions as F
context = spark.sparkContext
conf = dict(context.getConf().getAll())
options = [*conf["spark.executor.extraJavaOptions"].split(), f"-Dspark.driver.port={conf['spark.driver.port']}"]
given = {
    "SPARK_DRIVER_URL": f"spark://CoarseGrainedScheduler@127.0.0.1:{conf['spark.driver.port']}",
    "SPARK_EXECUTOR_ID": "7", "SPARK_EXECUTOR_CORES": "1", "SPARK_EXECUTOR_MEMORY": "512m",
    "SPARK_APPLICATION_ID": context.applicationId, "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
    "SPARK_RESOURCE_PROFILE_ID": "0", "SPARK_EXECUTOR_POD_NAME": "executor-7",
    **{f"SPARK_JAVA_OPT_{i}": option for i, option in enumerate(options)},
}
log = open(settings.home_path / "executor.log", "wb")
work = settings.home_path / "executor"  # where an executor puts the jars that it fetches from the driver
work.mkdir()
command = [str(Path("deploy/executor.sh").resolve()), "executor"]
subprocess.Popen(command, env={**os.environ, **given}, stdout=log, stderr=log, cwd=work)
names = [f"f{i}" for i in range(20)]
folder = save_onnx(settings.home_path / "model", network(output="p"), column_signature(names, {"p": "float"}))
model = scoring_udf(spark, str(folder))
frame = spark.range(100, numPartitions=4).select(*(F.lit(0.0).cast("float").alias(name) for name in names))
print("rows", frame.select(model().alias("p")).where("p between 0 and 1").count(), flush=True)
"""


def test_the_entry_point_of_an_executor_s_container_joins_the_driver_and_scores(
    settings: Settings, cluster: Cluster
) -> None:
    # No worker has as many cores, so the cluster starts no executor of its own.
    process = run(settings, cluster, ENTRY_POINT, conf={"spark.executor.cores": "3", "spark.cores.max": "3"})
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        kill_group(process)
    assert output.splitlines()[-1] == "rows 100", (settings.home_path / "executor.log").read_text()[-2000:]


SCORE = """
from scoring_support import NIGHT, make_pipeline
from forecache.scoring.tasks import engines as spark_engine
from forecache.scoring.partitions import shards
from forecache.scoring.run import score
shards.SHARDED_ROWS = spark_engine.ROWS_A_SPARK_TASK = 1000
print("ready", flush=True)
result = score(settings, make_pipeline(), [NIGHT], engine="spark", run_id="cluster")
print("scored", result.details["scored_rows"], flush=True)
"""


def caught_scoring(settings: Settings, cluster: Cluster, staged: Path) -> "subprocess.Popen[str] | None":
    """A run that has scored some of the files and not all; None where this process had to wait until it had."""
    process = run(settings, cluster, SCORE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(12_000):
        done = len(list(staged.glob(f"as_of={NIGHT}/*/shard=*/part-*.parquet")))
        if done >= 4:
            break
        assert process.poll() is None
        time.sleep(0.01)
    if done < FILES:
        return process
    process.communicate(timeout=300)
    assert process.returncode == 0
    return None


def test_a_worker_that_dies_during_a_run_changes_nothing(settings: Settings, cluster: Cluster, tmp_path: Path) -> None:
    pipeline = make_pipeline()
    write_features(settings, pipeline, [features_table(ROWS, seed=i, first=i * ROWS) for i in range(FILES)])
    register_model(settings, pipeline)
    staged = Path(settings.table_uri(pipeline.prediction_table))
    while (process := caught_scoring(settings, cluster, staged)) is None:
        shutil.rmtree(staged)
        register_model(settings, pipeline)  # there is all to score again
    kill_group(cluster.workers[0])
    output, _ = process.communicate(timeout=300)
    assert output.splitlines()[-1] == f"scored {FILES * ROWS}"
    recorded = last_record(settings, "score", pipeline.name, NIGHT)
    assert recorded is not None
    assert "core_s" not in recorded.details["cost"]  # the executors' CPU time is not seen
    by_cluster = predictions(settings, pipeline)
    register_model(settings, pipeline)
    score(settings, pipeline, [NIGHT], engine="arrow", run_id="here")
    here = predictions(settings, pipeline)
    columns = ["user_id", "as_of", "probability", "band", "feature_version"]
    assert by_cluster.select(columns).equals(here.select(columns))
