"""Models on an MLflow server that keeps the artifacts: copies are made on this machine, and none is left."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from sample_project.pipelines.visits import returns
from training_sample import write_training_set

from forecache.base.settings import load_settings

pytestmark = pytest.mark.slow

_TRAINS = """
import registry_sample as sample
from sample_project.pipelines.visits import returns
from forecache.models.registry import model_versions as models
from forecache.models.registry.run_gate import run_gate
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.gate.verdicts import load_gate_plots
from forecache.base.settings import load_settings

settings = load_settings()
for number, weights in enumerate((sample.SLIGHTLY_WORSE, sample.GOOD), 1):
    training = sample.made_up_training(settings, returns, weights, training_version=2)
    assert register_trained_model(settings, returns, training).details["model_version"] == number
    assert run_gate(settings, returns, number, actor="test").champion_after == number
champion = models.champion(settings, returns)
assert set(load_gate_plots(settings, champion)) == {"gains", "shift"}
print(models.verified_folder(settings, champion))
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "server"
    folder.mkdir()
    port = free_port()
    options = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Its runner of jobs is more processes that import MLflow, and nothing here has a job for it.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options], stdout=log, stderr=log, env=environment, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while not _answers(uri):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, 15)
        process.wait(120)


def _answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.timeout(300)
def test_models_of_a_server_are_judged_and_no_copy_of_them_is_left(tmp_path: Path, server: str) -> None:
    settings = load_settings(home=tmp_path / "home", project="sample_project")
    write_training_set(settings, returns)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {
        **os.environ,
        "FORECACHE_HOME": str(settings.home_path),
        "FORECACHE_PROJECT": "sample_project",
        "FORECACHE_MLFLOW_URI": server,
        "FORECACHE_MLFLOW_ARTIFACTS": "mlflow-artifacts:/forecache",
        "TMPDIR": str(scratch),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(
        [sys.executable, "-c", _TRAINS], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1].startswith(str(scratch))
    assert [path.name for path in scratch.iterdir() if path.is_dir()] == []
