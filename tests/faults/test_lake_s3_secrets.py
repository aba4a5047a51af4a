"""Spark with a lake on S3 shows its secrets neither in a command line nor in a log, and its executors can use them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from secrets_found import command_lines, files_with
from spark_cluster import Cluster
from store_services import minio_server

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(900)]

OWN_SECRET = "a-secret-of-the-spark-configuration"
_SCRIPT = """
import json, sys
from forecache.kit.spark.session import spark_session, stop_spark
from forecache.base.settings import load_settings

spark = spark_session(load_settings(**json.loads(sys.argv[1])))
spark.range(100, numPartitions=2).write.parquet("s3a://cloud/lake/numbers")
rows = spark.read.parquet("s3a://cloud/lake/numbers")
print(rows.selectExpr("sum(id)").first()[0], rows.count(), spark.conf.get("spark.own.password"))
try:
    spark.read.parquet("s3a://cloud/lake/nothing").count()
except Exception as error:
    print(error)
stop_spark()
"""


@pytest.fixture
def options(tmp_path: Path) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path / "minio", "cloud") as found:
        yield found


@pytest.fixture(params=["local[2]", "spark://"])
def master(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param != "spark://":
        yield request.param
        return
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster")
    try:
        cluster.start(workers=1)
        yield cluster.url
    finally:
        cluster.stop()


def test_no_secret_is_on_a_command_line_or_in_a_log_and_executors_read_and_write_the_lake(
    tmp_path: Path, master: str, options: dict[str, str]
) -> None:
    events = tmp_path / "events"
    events.mkdir()
    given = {
        "home": str(tmp_path / "home"),
        "lake": "s3://cloud/lake",
        "storage_options": options,
        "spark_master": master,
        "spark_jvm": "short",  # a remote lake would have one for long work
        "spark_driver_memory": "1g",
        "spark_conf": {
            "spark.executor.memory": "512m",
            "spark.cores.max": "1",
            "spark.eventLog.enabled": "true",
            "spark.eventLog.compress": "false",
            "spark.eventLog.dir": events.as_uri(),
            "spark.log.level": "INFO",
            "spark.own.password": OWN_SECRET,
        },
    }
    settings = tmp_path / "given.json"
    settings.write_text(json.dumps(given))
    command = [sys.executable, "-c", _SCRIPT.replace("sys.argv[1]", f"open({str(settings)!r}).read()")]
    with command_lines() as lines:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[0] == f"4950 100 {OWN_SECRET}"
    assert any("org.apache.spark.deploy.SparkSubmit" in line for line in lines)
    if master.startswith("spark://"):  # a test at the same time may have executors, too
        assert any("CoarseGrainedExecutorBackend" in line for line in lines)
    settings.unlink()
    assert files_with("SparkListenerEnvironmentUpdate", events)
    for secret in (options["AWS_SECRET_ACCESS_KEY"], OWN_SECRET):
        assert [line for line in lines if secret in line] == []
        assert files_with(secret, tmp_path, without=(".minio.sys",)) == []
