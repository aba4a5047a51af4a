"""A new project as `forecache init` makes it: its tests pass, its demo serves answers, and Dagster loads it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def test_a_new_project_passes_its_tests_serves_its_demo_and_is_loaded_by_dagster(tmp_path: Path) -> None:
    folder = tmp_path / "corner-shop"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    environment |= {"FORECACHE_SPARK_DRIVER_MEMORY": "1g", "FORECACHE_SPARK_MASTER": "local[2]"}

    def run(*command: str | Path, cwd: Path = folder) -> str:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    run(BIN / "forecache", "init", folder, cwd=tmp_path)
    assert "4 passed" in run("make", "test")
    demo = run("make", "demo")
    assert "returns 1 (champion) passed the gate" in demo
    assert json.loads(demo.partition("GET /v1/returns/")[2].splitlines()[1])["source"] == "precomputed"
    told = run(BIN / "dagster", "definitions", "validate", "-m", "jobs.definitions")
    assert "All code locations passed validation" in told
