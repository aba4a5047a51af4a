"""New projects as `forecache init` makes them: their tests pass, their demos serve answers, and Dagster loads them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from free_ports import free_port

from forecache.plugins.new_project.init_command import TEMPLATES

BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command in a folder, which has to succeed; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FORECACHE_", "MLFLOW_"))}
    environment |= {"FORECACHE_SPARK_DRIVER_MEMORY": "1g", "FORECACHE_SPARK_MASTER": "local[2]"}
    environment |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "FORECACHE_READER_PORT": str(free_port())}

    def run_command(*command: str | Path, cwd: Path = tmp_path) -> str:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return run_command


SERVED = {
    "batch": "returns",
    "sql": "returns",
    "registered": "returns",
    "realtime": "loyalty",
    "recommend": "recommended",
}
"""A pipeline whose answer the demo prints; the demo of a stream builds and publishes its view, and has no broker."""


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_project_of_each_template_passes_its_tests_and_serves_its_demo(
    template: str, tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "corner-shop"
    run("forecache", "init", folder, "--template", template)
    tested = run("make", "test", cwd=folder)
    assert " passed" in tested
    assert "failed" not in tested
    demo = run("make", "demo", cwd=folder)
    if template in SERVED:
        answer = json.loads(demo.partition(f"GET /v1/{SERVED[template]}/")[2].splitlines()[1])
        assert (answer["source"], answer["stale"]) == ("precomputed", False)
    if template in ("batch", "sql"):
        assert "returns 1 (champion) passed the gate" in demo
    if template == "registered":
        assert answer["model"] == {"name": "returns_model", "version": 1}
    if template == "realtime":
        assert "release" in run("forecache", "release", "list", "offer", cwd=folder)
    if template == "stream":
        found = json.loads(run("forecache", "get", "activity", "c0022", "--json", cwd=folder))
        assert found["value"]["orders_7d"] >= 0


def test_dagster_loads_a_new_project(tmp_path: Path, run: Run) -> None:
    run("forecache", "init", "shop-d")
    told = run("dagster", "definitions", "validate", "-m", "jobs.definitions", cwd=tmp_path / "shop-d")
    assert "All code locations passed validation" in told
