"""Faults met from the command line: one clear sentence, a non-zero exit, nothing lost, and running again continues."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from assets import stage
from forecache.base.settings import load_settings
from forecache.cli.main import main
from forecache.lake.query import query
from forecache.plugins.new_project.demo_data import land_demo_data

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.e2e]

SUPPORT = Path(__file__).parents[1] / "support"
CUSTOMERS = 40
NIGHT = "1998-06-30"
FIRST_DAY = "1998-06-24"


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, its standard output, and the last line of its standard error."""

    code: int
    output: str
    last_line: str


Command = Callable[..., Ended]


@pytest.fixture
def forecache(spark: object, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process, with its Spark session, on the home that the environment names."""

    def run(*arguments: str) -> Ended:
        code = main(arguments)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return Ended(code, told.out, told.err.strip().rpartition("\n")[2])

    return run


def rows_of(sql: str) -> list[dict[str, Any]]:
    return query(load_settings(), sql).to_pylist()


def use(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let this process and those that it starts work on a home."""
    given = {"HOME": str(home), "SPARK_MASTER": "local[2]", "SPARK_DRIVER_MEMORY": "1g"}
    for name, value in given.items():
        monkeypatch.setenv(f"FORECACHE_{name}", value)
    return home


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("landed") / "home"
    land_demo_data(load_settings(home=home))
    for file in (home / "landing" / "purchases").iterdir():
        if file.name < FIRST_DAY:
            file.unlink()
    return home


@pytest.fixture
def home(landed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for each test, with the purchases of the last days landed and nothing ingested."""
    return use(Path(shutil.copytree(landed, tmp_path / "home")), monkeypatch)


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


def test_missing_column_is_named_and_its_file_quarantined(home: Path, forecache: Command) -> None:
    file = home / "landing" / "purchases" / f"{NIGHT}.csv"
    rows = [line.rsplit(",", 1)[0] for line in file.read_text().splitlines()]
    file.write_text("\n".join(rows) + "\n")
    ended = forecache("run", "churn", "--date", NIGHT)
    assert ended.code == 4
    assert "amount" in ended.last_line
    assert f"{NIGHT}.csv" in ended.last_line
    whole_file = rows_of("select source_file, source_line from quarantine_purchases")
    assert whole_file == [{"source_file": f"{NIGHT}.csv", "source_line": 0}]


def test_empty_night_is_named(home: Path, forecache: Command) -> None:
    (home / "landing" / "purchases" / f"{NIGHT}.csv").unlink()
    ended = forecache("run", "churn", "--date", NIGHT)
    assert ended.code == 4
    assert f"As-of date {NIGHT} is empty" in ended.last_line


@pytest.mark.usefixtures("home")
def test_unknown_night_is_named(forecache: Command) -> None:
    ended = forecache("run", "churn", "--date", "2031-01-01")
    assert ended.code in (2, 3, 4)
    assert "2031-01-01" in ended.last_line


@pytest.mark.usefixtures("home")
def test_no_champion_yet_says_to_train(forecache: Command) -> None:
    ended = forecache("run", "churn", "--date", NIGHT)
    assert ended.code == 3
    assert "champion" in ended.last_line
    assert "train" in ended.last_line


def test_full_disk_loses_nothing_and_running_again_continues(
    home: Path, small_disk: Path, forecache: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "RETRY_AFTER_S", (0, 0))  # nobody makes room between the tries
    landed = (home / "landing" / "purchases").iterdir()
    purchases = sum(len(file.read_text().splitlines()) - 1 for file in landed)
    ended = forecache("ingest", "churn")
    assert ended.code == 7, ended
    assert "The disk is full" in ended.last_line
    assert DeltaTable(small_disk / "raw_purchases").version() == 0  # committed, and not entered
    assert not DeltaTable.is_deltatable(str(small_disk / "ingested_files"))
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    assert forecache("ingest", "churn").code == 0
    assert rows_of("select count(*) n from raw_purchases") == [{"n": purchases}]


@pytest.fixture
def tills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home where the six days of the till project have landed, 40 customers a day."""
    monkeypatch.setenv("FORECACHE_PROJECT", "till_project")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), *(path for path in sys.path if path)]))
    home = use(tmp_path / "home", monkeypatch)
    sales = home / "landing" / "sales"
    sales.mkdir(parents=True)
    for number in range(1, 7):
        day = date(2026, 1, number)
        rows = [f"c{i:02},{day},{i + number % 2}" for i in range(CUSTOMERS)]
        (sales / f"{day}.csv").write_text("\n".join(["customer,day,amount", *rows]) + "\n")
    return home


KILLED = """
import os, signal, sys, threading
from forecache.cli.main import main
from forecache.cli.progress import StageProgress

def print_and_soon_die(self, result):
    print_stage(self, result)
    if (result.stage, result.subject) == ("features", "till"):
        threading.Timer(0.5, os.killpg, (os.getpgrp(), signal.SIGKILL)).start()

print_stage, StageProgress.print_stage = StageProgress.print_stage, print_and_soon_die
main(sys.argv[1:])
"""
"""The command line, killed half a second after a stage, by a clock that stands still with it."""


@pytest.mark.usefixtures("tills")
def test_run_killed_after_a_stage_continues_where_it_stopped(forecache: Command) -> None:
    full = ("run", "till", "--job", "full")
    killed = subprocess.run([sys.executable, "-c", KILLED, *full], start_new_session=True, check=False)
    assert killed.returncode == -signal.SIGKILL

    ended = forecache(*full, "--json")
    assert ended.code == 0, ended
    skipped = {each["stage"]: each["skipped"] for each in json.loads(ended.output)}
    assert skipped["ingest"]
    assert skipped["features"]
    assert not skipped["publish"]
    [counts] = rows_of("select count(*) n, count(distinct customer) customers from predictions_till")
    assert counts == {"n": CUSTOMERS, "customers": CUSTOMERS}

    before = content()
    ended = forecache(*full, "--json")
    assert ended.code == 0, ended
    assert all(each["skipped"] for each in json.loads(ended.output))
    assert content() == before


def content() -> list[dict[str, Any]]:
    """Rows and an order-independent hash of what the night left behind."""
    tables = ("raw_sales", "features_till", "predictions_till")
    parts = [f"select '{name}' t, count(*) n, sum(hash(x)::hugeint)::varchar h from {name} x" for name in tables]
    return rows_of(" union all ".join(parts) + " order by t")
