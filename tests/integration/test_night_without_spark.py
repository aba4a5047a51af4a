"""A project of windows, SQL and a LightGBM model runs whole where neither Java nor pyspark nor torch can be found."""

import json
import random
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import night_without_spark
import pytest

DAYS = [date(2026, 1, 1) + timedelta(days=number) for number in range(20)]


def land(home: Path, days: list[date]) -> None:
    rng, folder = random.Random(1), home / "landing" / "sales"
    folder.mkdir(parents=True, exist_ok=True)
    for day in days:
        rows = [f"{customer},{day},{rng.randint(1, 400) / 4}" for customer in range(200) if rng.random() < 0.8]
        (folder / f"{day}.csv").write_text("\n".join(["customer,day,amount", *rows]) + "\n")


def run_night(home: Path, environment: dict[str, str]) -> Any:
    command = [sys.executable, night_without_spark.__file__, str(home)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_project_of_windows_sql_and_lightgbm_runs_from_files_to_answers_without_java_pyspark_and_torch(
    tmp_path: Path,
) -> None:
    home, environment = tmp_path / "home", night_without_spark.hide_libraries(tmp_path / "site")
    looking = "import shutil, importlib.util as found; print(shutil.which('java'), *map(found.find_spec, {}))"
    command = [sys.executable, "-c", looking.format(["pyspark", "torch"])]
    hidden = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert hidden.stdout.split() == ["None", "None", "None"]
    land(home, DAYS)
    first = run_night(home, environment)
    stages = [stage for stage, _ in first["stages"]]
    train = ["training_set", "train", "register"]
    assert stages == ["ingest", "features", "features", *train, "features", "score", "publish", "drift_report"]
    assert first["recorded"] == dict.fromkeys(["windows", "sql", "join", "score"], "arrow")
    assert len(first["engines"]) == 5
    assert all(" by the engine arrow: " in each for each in first["engines"])
    assert first["loaded"] == []
    assert len(first["stored"]) > 150
    assert len(set(first["stored"].values())) > 5
    assert first["served"] == first["stored"]

    again = run_night(home, environment)
    assert all(skipped for _, skipped in again["stages"])
    assert again["engines"] == []
    assert again["served"] == first["served"]
