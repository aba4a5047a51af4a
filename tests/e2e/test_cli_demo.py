"""`forecache demo` whole: from landing files to served answers, and again without changing anything."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1200)]

CUSTOMERS = 23_570
TABLES = ("raw_purchases", "features_churn", "predictions_churn", "features_spend", "predictions_spend")


def forecache(home: Path, *arguments: str) -> str:
    """Standard output of a command that has to succeed."""
    given = {"FORECACHE_HOME": str(home), "FORECACHE_SPARK_MASTER": "local[2]", "FORECACHE_SPARK_DRIVER_MEMORY": "1g"}
    command = [sys.executable, "-m", "forecache.cli.main", *arguments]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_json(home: Path, *arguments: str) -> Any:
    return json.loads(forecache(home, *arguments, "--json"))


def content(home: Path) -> Any:
    """Rows and an order-independent hash of every table that the demo leaves behind."""
    parts = [f"select '{name}' t, count(*) n, sum(hash(x)::hugeint)::varchar h from {name} x" for name in TABLES]
    return as_json(home, "query", " union all ".join(parts) + " order by t")


def test_demo_serves_every_customer_explains_itself_and_changes_nothing_when_run_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = as_json(home, "demo")
    assert {model["pipeline"] for model in first["models"] if "champion" in model["aliases"]} == {"churn", "spend"}
    assert [answer["pipeline"] for answer in first["answers"]] == ["churn"] * 3 + ["spend"] * 3
    assert all(Path(report).stat().st_size > 10_000 for report in first["reports"].values())
    assert as_json(home, "query", "select count(*) n from predictions_churn") == [{"n": CUSTOMERS}]
    assert as_json(home, "get", "churn", "00001")["store_version"] == 1

    text = forecache(home, "explain", "churn", "00001")
    chain = as_json(home, "explain", "churn", "00001")
    for link in (chain["prediction"], chain["features"], *chain["raw"]):
        assert f"{link['table']} at Delta version {link['delta_version']}" in text
    assert f"model churn {chain['model']['version']} (champion)" in text
    assert f"MLflow run {chain['model']['run_id']}" in text
    assert chain["raw"][0]["lines"] == [{"file": "1997-01-01.csv", "line": 2}]

    before = content(home)
    again = as_json(home, "demo")
    assert [stage["stage"] for stage in again["stages"] if not stage["skipped"]] == []
    assert again["seconds"] < first["seconds"]
    assert content(home) == before

    lines = forecache(home, "demo", "--pipeline", "churn").strip().splitlines()
    assert lines[-3].startswith("Reader: http://127.0.0.1:")
    assert json.loads(lines[-1])["source"] == "precomputed"
