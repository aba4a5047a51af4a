"""Models on an MLflow server that keeps the artifacts: copies are made on this machine, and none is left."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_project.pipelines.visits import returns
from store_services import mlflow_server
from training_sample import write_training_set

from forecache.base.settings import load_settings

pytestmark = pytest.mark.slow

_TRAINS = """
import registry_sample as sample
from sample_project.pipelines.visits import returns
from store_services import mlflow_server
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
    with mlflow_server(tmp_path / "server") as uri:
        yield uri


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
