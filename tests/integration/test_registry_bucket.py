"""Models in MLflow on PostgreSQL with their artifacts in a bucket: one configuration reaches both, from any machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from sample_project.pipelines.visits import returns
from store_services import minio_server, postgres_server
from training_sample import write_training_set

from forecache.base.settings import load_settings

pytestmark = pytest.mark.slow

_PASSWORD = "orchard-7"
_TRAINS = """
import registry_sample as sample
from sample_project.pipelines.visits import returns
from forecache.models.registry.run_gate import run_gate
from forecache.models.registry.register import register_trained_model
from forecache.base.settings import load_settings

settings = load_settings()
for number, weights in enumerate((sample.SLIGHTLY_WORSE, sample.GOOD), 1):
    training = sample.made_up_training(settings, returns, weights, training_version=2)
    assert register_trained_model(settings, returns, training).details["model_version"] == number
    assert run_gate(settings, returns, number, actor="test").champion_after == number
"""
_LOADS = """
from sample_project.pipelines.visits import returns
from forecache.models.registry.gate.verdicts import load_gate_plots
from forecache.models.registry import model_versions as models
from forecache.base.settings import load_settings

settings = load_settings()
champion = models.champion(settings, returns)
assert champion.version == 2
assert set(load_gate_plots(settings, champion)) == {"gains", "shift"}
print(*sorted(path.name for path in models.verified_folder(settings, champion).iterdir()))
"""
_OPENS = """
import sys
import mlflow
from forecache.base.settings import load_settings
from forecache.models.tracking.client import connect_mlflow

print("ready", flush=True)
sys.stdin.readline()
connect_mlflow(load_settings()).search_experiments(max_results=1)
"""


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Mapping[str, str]]]:
    """MLflow's database as an operator writes its URL, and the options of an object store."""
    folder = tmp_path_factory.mktemp("services")
    with postgres_server(folder / "pg", password=_PASSWORD) as url, minio_server(folder / "minio", "cloud") as options:
        yield url, options


def run(program: str, home: Path, lake: str, services: tuple[str, Mapping[str, str]]) -> str:
    """Run a program on a machine that has nothing but Forecache's settings; returns its output."""
    url, options = services
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    variables = {
        "HOME": str(home.parent),
        "FORECACHE_HOME": str(home),
        "FORECACHE_LAKE": lake,
        "FORECACHE_PROJECT": "sample_project",
        "FORECACHE_MLFLOW_URI": url,
        "FORECACHE_MLFLOW_ARTIFACTS": "s3://cloud/mlflow",
        "FORECACHE_STORAGE_OPTIONS": json.dumps(options),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=bare | variables, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    for secret in (_PASSWORD, options["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(500)
def test_models_are_registered_judged_and_loaded_elsewhere_with_the_options_of_the_lake(
    tmp_path: Path, services: tuple[str, Mapping[str, str]]
) -> None:
    settings = load_settings(home=tmp_path / "home", project="sample_project")
    write_training_set(settings, returns)
    run(_TRAINS, settings.home_path, settings.lake_uri, services)
    assert "model.onnx" in run(_LOADS, tmp_path / "another machine", settings.lake_uri, services).split()
    assert not (settings.home_path / "mlflow").exists()


def test_processes_of_several_machines_may_be_the_first_at_once(tmp_path: Path) -> None:
    with postgres_server(tmp_path / "pg", password=_PASSWORD) as url:
        pods = [
            subprocess.Popen(
                [sys.executable, "-c", _OPENS],
                env=os.environ | {"FORECACHE_HOME": str(tmp_path / f"home {number}"), "FORECACHE_MLFLOW_URI": url},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for number in range(3)
        ]  # fmt: skip
        for pod in pods:
            assert pod.stdout is not None
            assert pod.stdout.readline() == "ready\n"
        for pod in pods:
            assert pod.stdin is not None
            pod.stdin.write("go\n")
            pod.stdin.flush()
        said = [pod.communicate(timeout=240)[1][-2000:] for pod in pods]
        assert [pod.returncode for pod in pods] == [0, 0, 0], said
