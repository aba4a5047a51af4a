"""On a real cluster: models reach executors without the driver's disk, and a worker may die during a run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scoring_support import (
    NIGHT,
    column_signature,
    features_table,
    make_pipeline,
    predictions,
    quiet,
    register_model,
    write_features,
)
from spark_cluster import Cluster, kill_group

from forecache.scoring.run import score
from forecache.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.faults]

FILES = 24
ROWS = 4_000
NAMES = [f"f{i}" for i in range(20)]

HEAD = """
import sys
sys.path.insert(0, "tests/support")
from forecache.lake.spark import spark_session
from forecache.settings import load_settings
settings = load_settings()
spark = spark_session(settings)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    started = Cluster(folder)
    try:
        started.start(workers=2)
        yield started
    finally:
        started.stop()


def run(settings: Settings, cluster: Cluster, program: str, *arguments: str) -> subprocess.Popen[str]:
    conf = {"spark.executor.memory": "512m", "spark.executor.cores": "1", "spark.cores.max": "2"}
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


SCORE = """
from scoring_support import NIGHT, make_pipeline
from forecache.scoring import spark_engine, stage
from forecache.scoring.run import score
stage.SHARDED_ROWS = spark_engine.ROWS_A_TASK = 1000
print("ready", flush=True)
result = score(spark, settings, make_pipeline(), [NIGHT], run_id="cluster")
print("scored", result.details["scored_rows"], flush=True)
"""


def test_a_worker_that_dies_during_a_run_changes_nothing(settings: Settings, cluster: Cluster, tmp_path: Path) -> None:
    pipeline = make_pipeline()
    write_features(settings, pipeline, [features_table(ROWS, seed=i, first=i * ROWS) for i in range(FILES)])
    register_model(settings, pipeline)
    process = run(settings, cluster, SCORE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    staged = Path(settings.table_uri(pipeline.prediction_table)) / f"as_of={NIGHT}"
    for _ in range(12_000):
        done = len(list(staged.glob("*/shard=*/part-*.parquet"))) if staged.is_dir() else 0
        if done >= 4:
            break
        assert process.poll() is None
        time.sleep(0.01)
    assert done < FILES
    kill_group(cluster.workers[0])
    output, _ = process.communicate(timeout=300)
    assert output.splitlines()[-1] == f"scored {FILES * ROWS}"
    by_cluster = predictions(settings, pipeline)
    register_model(settings, pipeline)
    score(None, settings, pipeline, [NIGHT], engine="arrow", run_id="here")
    here = predictions(settings, pipeline)
    columns = ["user_id", "as_of", "probability", "band", "feature_version"]
    assert by_cluster.select(columns).equals(here.select(columns))


CUSTOM = """
import mlflow.pyfunc
from mlflow.models import set_model


class Shift(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.shift = context.model_config["shift"]

    def predict(self, context, model_input, params=None):
        return model_input["f0"] * 0 + self.shift


set_model(Shift())
"""

APPLY = """
import os, shutil
from forecache.scoring import scoring_udf
from pyspark.sql import functions as F
folder = sys.argv[1]
model = scoring_udf(spark, folder, model_config={"shift": 5.0})
shutil.rmtree(folder)  # what a cluster's executors do not have
frame = spark.range(1000, numPartitions=8).select(*(F.lit(1.0).cast("float").alias(f"f{i}") for i in range(20)))
values = [row.p for row in frame.select(model().alias("p")).distinct().collect()]
print("values", values, flush=True)
"""


def test_a_model_config_and_the_model_itself_reach_executors_that_share_no_disk(
    settings: Settings, cluster: Cluster, tmp_path: Path
) -> None:
    import mlflow.pyfunc

    quiet()
    code, folder = tmp_path / "shift.py", tmp_path / "model"
    code.write_text(CUSTOM)
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(code),
        model_config={"shift": 1.0},
        signature=column_signature(NAMES, {"p": "float"}),
        pip_requirements=["numpy"],
    )
    process = run(settings, cluster, APPLY, str(folder))
    output, _ = process.communicate(timeout=300)
    assert output.splitlines()[-1] == "values [5.0]"
