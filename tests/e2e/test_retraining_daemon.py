"""Dagster's own daemon with the retraining sensor on: a drifted night is found, trained for, and judged by the gate."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import monitoring_sample as sample
import pytest
from monitored_project.pipelines.returns import monitored

from forecache.base.settings import Settings
from forecache.lake.ledger import last_record
from forecache.models.registry import model_versions as models
from forecache.models.registry.promotions import promotions
from forecache.plugins.drift.monitor import monitor
from forecache.plugins.drift.orchestration import REASON_TAG
from resources.instance import ensure_instance

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def drifted(settings: Settings, spark: "SparkSession") -> Settings:
    """Settings of a lake with a champion, three drifted nights that were measured, and visits to train on."""
    sample.make_lake(settings)
    sample.write_history(settings)
    monitor(settings, monitored, sample.DRIFTED)
    return settings


@pytest.fixture
def environment(drifted: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "DAGSTER_HOME": str(ensure_instance(drifted.model_copy(update={"project": "monitored_project"}))),
        "FORECACHE_HOME": str(drifted.home_path),
        "FORECACHE_PROJECT": "monitored_project",
        "FORECACHE_SPARK_MASTER": "local[2]",
        "FORECACHE_SPARK_DRIVER_MEMORY": "1g",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def workspace(environment: dict[str, str]) -> Path:
    return Path(environment["DAGSTER_HOME"], "workspace.yaml")


@contextmanager
def daemon(environment: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`dagster-daemon run` on the project's workspace, in a process group of its own."""
    command = ["env", "--default-signal=INT,QUIT", PROGRAMS / "dagster-daemon", "run", "-w", workspace(environment)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def switch_on(environment: dict[str, str], sensor: str) -> None:
    command = [PROGRAMS / "dagster", "sensor", "start", sensor, "-w", workspace(environment), "-l", "forecache"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def finished_run(instance: dg.DagsterInstance, process: "subprocess.Popen[bytes]", log: Path) -> dg.DagsterRun:
    """The only run there is, once it has ended."""
    deadline = time.monotonic() + 270
    while time.monotonic() < deadline and process.poll() is None:
        runs = instance.get_runs()
        if runs and runs[0].is_finished:
            [run] = runs
            return run
        time.sleep(0.5)
    raise AssertionError(f"no run has ended; the daemon said {log.read_text()[-3000:]}")


@pytest.mark.timeout(400)
def test_the_daemon_requests_a_training_for_a_drifted_night_and_the_gate_judges_its_model(
    drifted: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    assert models.champion(drifted, monitored).version == 1
    switch_on(environment, "returns_drifted")
    log = tmp_path / "daemon.log"
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        with daemon(environment, log) as process:
            run = finished_run(instance, process, log)
        failures = [entry.user_message for entry in instance.all_logs(run.run_id) if "FAILURE" in str(entry)]
        assert run.status == dg.DagsterRunStatus.SUCCESS, failures
    assert run.job_name == "returns_training"
    assert run.tags["dagster/sensor_name"] == "returns_drifted"
    assert "feature amount: PSI" in run.tags[REASON_TAG]

    trained = last_record(drifted, "train", "returns")
    assert trained is not None
    assert (trained.run_id, trained.details["as_of"]) == (run.run_id, sample.DRIFTED[-1].isoformat())
    judged = promotions(drifted, "returns")[-1]
    assert (judged.action, judged.actor, judged.run_id) == ("gate", "dagster", run.run_id)
    assert (judged.from_version, judged.to_version, judged.verdict) == (1, 2, "passed")
    assert models.champion(drifted, monitored).version == 2
