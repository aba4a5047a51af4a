"""The example of one payment: from landing files to a score over HTTP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forecache.settings import PROJECT_ROOT

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_a_payment_is_scored_by_a_model_that_was_trained_on_past_ones(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{PROJECT_ROOT}{os.pathsep}{PROJECT_ROOT / 'examples' / 'fraud'}",
        "FORECACHE_PROJECT": "fraud",
        "FORECACHE_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "forecache.cli.main", "demo", "--json"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    [asked] = shown["asked"]
    assert asked["name"] == "fraud"
    assert asked["answer"]["rung"] == "model"
    assert 0 <= asked["answer"]["value"]["fraud_score"] <= 1
    assert asked["answer"]["stores"]["spending"]["as_of"] == "2026-03-31"
    [user, *_] = [answer for answer in shown["answers"] if answer["pipeline"] == "user_risk"]
    assert 0 <= user["value"]["risk"] <= 1
