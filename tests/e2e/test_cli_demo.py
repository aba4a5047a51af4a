"""`forecache demo` whole: from landing files to served answers, and again without changing anything."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port

from forecache.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1200)]

CUSTOMERS = 23_570
TABLES = ("raw_purchases", "features_customer", "predictions_churn", "predictions_spend")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Two models are trained: with one worker each the test waits for two processes less that import PyTorch.
    given = {"HOME": str(tmp_path / "home"), "SPARK_MASTER": "local[2]", "SPARK_DRIVER_MEMORY": "1g"}
    given |= {"TRAINING_WORKERS": "1", "READER_PORT": str(free_port())}
    for name, value in given.items():
        monkeypatch.setenv(f"FORECACHE_{name}", value)
    return tmp_path / "home"


@pytest.fixture
def forecache(home: Path, spark: object, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command in this process, with its Spark session; gives its standard output. It has to succeed."""

    def run(*arguments: str) -> str:
        code = main(arguments)
        told = capsys.readouterr()
        assert code == 0, told.err
        return told.out

    return run


def test_demo_serves_every_customer_explains_itself_and_changes_nothing_when_run_again(
    home: Path, forecache: Callable[..., str]
) -> None:
    def as_json(*arguments: str) -> Any:
        return json.loads(forecache(*arguments, "--json"))

    def content() -> Any:
        """Rows and an order-independent hash of every table that the demo leaves behind."""
        parts = [f"select '{name}' t, count(*) n, sum(hash(x)::hugeint)::varchar h from {name} x" for name in TABLES]
        return as_json("query", " union all ".join(parts) + " order by t")

    started = time.perf_counter()
    lines = forecache("demo").strip().splitlines()
    first_s = time.perf_counter() - started
    assert lines[-3].startswith("Reader: http://127.0.0.1:")
    assert json.loads(lines[-1])["source"] == "precomputed"
    assert as_json("query", "select count(*) n from predictions_churn") == [{"n": CUSTOMERS}]
    assert as_json("get", "churn", "00001")["store_version"] == 1

    text = forecache("explain", "churn", "00001")
    chain = as_json("explain", "churn", "00001")
    for link in (chain["prediction"], chain["features"], *chain["raw"]):
        assert f"{link['table']} at Delta version {link['delta_version']}" in text
    assert f"model churn {chain['model']['version']} (champion)" in text
    assert f"MLflow run {chain['model']['run_id']}" in text
    why, probability = chain["contributions"], chain["prediction"]["row"]["churn_probability"]
    assert why["sum"] == pytest.approx(probability, abs=1e-4)
    assert why["base"] + sum(each["contribution"] for each in why["features"]) == pytest.approx(why["sum"])
    assert {each["name"] for each in why["features"]} <= set(chain["features"]["row"])
    assert f"by {why['features'][0]['name']} = " in text
    assert chain["raw"][0]["lines"] == [{"file": "1997-01-01.csv", "line": 2}]

    before = content()
    again = as_json("demo", "--pipeline", "churn", "--pipeline", "spend")
    assert [stage["stage"] for stage in again["stages"] if not stage["skipped"]] == []
    assert again["seconds"] < first_s
    assert content() == before
    assert {model["pipeline"] for model in again["models"] if "champion" in model["aliases"]} == {"churn", "spend"}
    assert [answer["pipeline"] for answer in again["answers"]] == ["churn"] * 3 + ["spend"] * 3
    assert all(Path(report).stat().st_size > 10_000 for report in again["reports"].values())
