"""Faults met from the command line: one clear sentence, a non-zero exit, nothing lost, and running again continues."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from forecache.cli.main import main
from forecache.lake.ingest.demo_data import land_demo_data
from forecache.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.e2e]

SUPPORT = Path(__file__).parents[1] / "support"
CUSTOMERS = 40
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
    land_demo_data(load_settings(home=home))
    for file in (home / "landing" / "purchases").iterdir():
        if file.name < FIRST_DAY:
            file.unlink()
    return home


@pytest.fixture
def home(landed: Path, tmp_path: Path) -> Path:
    """A home of its own for each test, with the purchases of the last days landed and nothing ingested."""
    return Path(shutil.copytree(landed, tmp_path / "home"))


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A lake folder on a file system of its own that has room for the raw rows and not for the files' entries."""
    lake = home / "lake"
    lake.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(lake)], capture_output=True, text=True, check=False
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


def test_full_disk_loses_nothing_and_running_again_continues(home: Path, small_disk: Path) -> None:
    landed = (home / "landing" / "purchases").iterdir()
    purchases = sum(len(file.read_text().splitlines()) - 1 for file in landed)
    done = forecache(home, "ingest", "churn")
    assert done.returncode == 7, done.stderr
    assert "The disk is full" in last_line(done)
    assert DeltaTable(small_disk / "raw_purchases").version() == 0  # committed, and not entered
    assert not DeltaTable.is_deltatable(str(small_disk / "ingested_files"))
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    done = forecache(home, "ingest", "churn")
    assert done.returncode == 0, done.stderr
    assert query(home, "select count(*) n from raw_purchases") == [{"n": purchases}]


@pytest.fixture
def tills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home where the six days of the till project have landed, 40 customers a day."""
    monkeypatch.setenv("FORECACHE_PROJECT", "till_project")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), *(path for path in sys.path if path)]))
    sales = tmp_path / "home" / "landing" / "sales"
    sales.mkdir(parents=True)
    for number in range(1, 7):
        day = date(2026, 1, number)
        rows = [f"c{i:02},{day},{i + number % 2}" for i in range(CUSTOMERS)]
        (sales / f"{day}.csv").write_text("\n".join(["customer,day,amount", *rows]) + "\n")
    return tmp_path / "home"


def test_run_killed_after_a_stage_continues_where_it_stopped(tills: Path) -> None:
    full = ("run", "till", "--job", "full")
    process = subprocess.Popen(
        [sys.executable, "-m", "forecache.cli.main", *full],
        env=environment(tills),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "+ features till" in line:
            break
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    done = forecache(tills, *full, "--json")
    assert done.returncode == 0, done.stderr
    skipped = {stage["stage"]: stage["skipped"] for stage in json.loads(done.stdout)}
    assert skipped["ingest"]
    assert skipped["features"]
    assert not skipped["publish"]
    [counts] = query(tills, "select count(*) n, count(distinct customer) customers from predictions_till")
    assert counts == {"n": CUSTOMERS, "customers": CUSTOMERS}

    before = content(tills)
    done = forecache(tills, *full, "--json")
    assert done.returncode == 0, done.stderr
    assert all(stage["skipped"] for stage in json.loads(done.stdout))
    assert content(tills) == before


def content(home: Path) -> list[dict[str, Any]]:
    """Rows and an order-independent hash of what the night left behind."""
    tables = ("raw_sales", "features_till", "predictions_till")
    parts = [f"select '{name}' t, count(*) n, sum(hash(x)::hugeint)::varchar h from {name} x" for name in tables]
    return query(home, " union all ".join(parts) + " order by t")
