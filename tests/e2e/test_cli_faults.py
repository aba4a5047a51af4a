"""Faults met from the command line: one clear sentence, a non-zero exit, nothing lost, and running again continues."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagster_project.purchases import land
from forecache.cli.main import main
from forecache.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.e2e]

PURCHASES = 69_659
CUSTOMERS = 23_570
NIGHT = "1998-06-30"
FIRST_DAY = "1998-06-24"
Refusal = Callable[..., tuple[int, str]]


def environment(home: Path, **settings: str) -> dict[str, str]:
    given = {"home": str(home), "spark_master": "local[2]", "spark_driver_memory": "1g", **settings}
    return {**os.environ, **{f"FORECACHE_{name.upper()}": value for name, value in given.items()}}


def forecache(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forecache.cli.main", *arguments]
    return subprocess.run(
        command, env=environment(home, **settings), capture_output=True, text=True, check=False, timeout=500
    )


def query(home: Path, sql: str) -> list[dict[str, Any]]:
    done = forecache(home, "query", sql, "--json")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("landed") / "home"
    land(load_settings(home=home))
    return home


@pytest.fixture
def whole_home(landed: Path, tmp_path: Path) -> Path:
    """A home of its own for each test, with the purchases landed and nothing ingested."""
    return Path(shutil.copytree(landed, tmp_path / "home"))


@pytest.fixture
def home(whole_home: Path) -> Path:
    """The same with the last days alone, which are ingested in seconds."""
    for file in (whole_home / "landing" / "purchases").iterdir():
        if file.name < FIRST_DAY:
            file.unlink()
    return whole_home


@pytest.fixture
def small_disk(whole_home: Path) -> Iterator[Path]:
    """A lake folder on a file system of its own that is too small."""
    lake = whole_home / "lake"
    lake.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(lake)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.strip()}")
    yield lake
    subprocess.run(["umount", "-l", str(lake)], check=True)


@pytest.fixture
def refused(home: Path, spark: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Runs a command in this process, with its Spark session; gives the exit code and the last line of the error."""
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        told = capsys.readouterr().err
        assert "Traceback" not in told
        return code, told.strip().splitlines()[-1]

    return run


def test_missing_column_is_named_and_its_file_quarantined(home: Path, refused: Refusal) -> None:
    file = home / "landing" / "purchases" / f"{NIGHT}.csv"
    rows = [line.rsplit(",", 1)[0] for line in file.read_text().splitlines()]
    file.write_text("\n".join(rows) + "\n")
    code, told = refused("run", "churn", "--night", NIGHT)
    assert code == 4
    assert "amount" in told
    assert f"{NIGHT}.csv" in told
    whole_file = query(home, "select source_file, source_line from quarantine_purchases")
    assert whole_file == [{"source_file": f"{NIGHT}.csv", "source_line": 0}]


def test_empty_night_is_named(home: Path, refused: Refusal) -> None:
    (home / "landing" / "purchases" / f"{NIGHT}.csv").unlink()
    code, told = refused("run", "churn", "--night", NIGHT)
    assert code == 4
    assert f"The night {NIGHT} is empty" in told


def test_unknown_night_is_named(refused: Refusal) -> None:
    code, told = refused("run", "churn", "--night", "2031-01-01")
    assert code in (2, 3, 4)
    assert "2031-01-01" in told


def test_no_champion_yet_says_to_train(refused: Refusal) -> None:
    code, told = refused("run", "churn", "--night", NIGHT)
    assert code == 3
    assert "champion" in told
    assert "train" in told


def test_full_disk_loses_nothing_and_running_again_continues(whole_home: Path, small_disk: Path) -> None:
    done = forecache(whole_home, "ingest", "churn")
    assert done.returncode == 7, done.stderr
    assert "The disk is full" in last_line(done)
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    done = forecache(whole_home, "ingest", "churn")
    assert done.returncode == 0, done.stderr
    assert query(whole_home, "select count(*) n from raw_purchases") == [{"n": PURCHASES}]


def test_run_killed_after_a_stage_continues_where_it_stopped(whole_home: Path) -> None:
    command = [sys.executable, "-m", "forecache.cli.main", "run", "churn", "--night", NIGHT, "--job", "full"]
    process = subprocess.Popen(
        command,
        env=environment(whole_home),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "+ features churn" in line:
            break
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    done = forecache(whole_home, "run", "churn", "--night", NIGHT, "--job", "full", "--json")
    assert done.returncode == 0, done.stderr
    skipped = {stage["stage"]: stage["skipped"] for stage in json.loads(done.stdout)}
    assert skipped["ingest"]
    assert skipped["features"]
    assert not skipped["publish"]
    counts = query(
        whole_home,
        "select count(*) n, count(distinct customer_id) customers, count(distinct as_of) nights from predictions_churn",
    )
    assert counts == [{"n": CUSTOMERS, "customers": CUSTOMERS, "nights": 1}]

    before = content(whole_home)
    done = forecache(whole_home, "run", "churn", "--night", NIGHT, "--job", "full", "--json")
    assert done.returncode == 0, done.stderr
    assert all(stage["skipped"] for stage in json.loads(done.stdout))
    assert content(whole_home) == before


def content(home: Path) -> list[dict[str, Any]]:
    """Rows and an order-independent hash of what the night left behind."""
    tables = ("raw_purchases", "features_churn", "predictions_churn")
    parts = [f"select '{name}' t, count(*) n, sum(hash(x)::hugeint)::varchar h from {name} x" for name in tables]
    return query(home, " union all ".join(parts) + " order by t")
