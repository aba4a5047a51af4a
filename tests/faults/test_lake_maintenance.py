"""Maintenance that is killed at any instant, or runs twice at once beside a run, loses nothing."""

import random
import shutil
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable
from maintenance_lake import (
    DAY,
    TRAINING,
    age,
    contents,
    data_files,
    maintain_often,
    maintain_until,
    write_lake,
    write_often,
)
from warm import assert_valid_log, die, processes, start

from forecache.base.settings import Settings, load_settings
from forecache.kit.delta.tables import open_table, table_names
from forecache.lake.ledger import last_records
from forecache.plugins.maintenance.lake import maintain_lake

pytestmark = [pytest.mark.slow, pytest.mark.faults]

_INSTANTS = 6
_ROUNDS = 4


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an old lake."""
    settings = load_settings(home=tmp_path_factory.mktemp("prepared") / "home", code_version="fixed")
    write_lake(settings)
    age(settings)
    return settings.home_path


def old_lake(prepared: Path, home: Path) -> Settings:
    shutil.copytree(prepared, home)  # with the age of its files
    return load_settings(home=home, code_version="fixed")


def killed_after(settings: Settings, last: int) -> list[str]:
    """Maintain in a process that is killed after a step; the steps it came to."""
    ours, theirs = processes().Pipe(duplex=False)
    process = start(maintain_until, settings.home, last, theirs)
    theirs.close()
    found: list[str] = []
    try:
        while True:
            found.append(ours.recv())
    except EOFError:
        process.join()
    return found


def assert_whole(settings: Settings, expected: dict[str, object]) -> None:
    assert contents(settings) == expected
    for name in table_names(settings):
        assert_valid_log(settings.table_uri(name))
    assert DeltaTable(settings.table_uri(TRAINING), version=2).to_pyarrow_table()["x"].to_pylist() == [2, 2, 2]


def test_maintenance_that_is_killed_at_any_step_loses_nothing(prepared: Path, tmp_path: Path) -> None:
    settings = old_lake(prepared, tmp_path / "whole")
    expected = contents(settings)
    steps = killed_after(settings, -1)
    assert {"file written", "decided", "committed", "file removed"} <= set(steps)
    assert_whole(settings, expected)
    for last in range(len(steps)):
        settings = old_lake(prepared, tmp_path / f"killed {last}")
        expected = contents(settings)
        assert len(killed_after(settings, last)) == last + 1
        assert_whole(settings, expected)
        maintain_lake(settings)
        assert_whole(settings, expected)


def test_maintenance_that_is_killed_at_any_instant_loses_nothing(prepared: Path, tmp_path: Path) -> None:
    settings = old_lake(prepared, tmp_path / "home")
    expected = contents(settings)
    chance = random.Random(5)
    for _ in range(_INSTANTS):
        process = start(maintain_often, settings.home, processes().Barrier(1), 1)
        time.sleep(chance.uniform(0.1, 1.0))
        die(process)
        assert_whole(settings, expected)
    maintain_lake(settings)
    age(settings)
    maintain_lake(settings)
    assert_whole(settings, expected)
    assert len(data_files(settings, "raw_orders")) == 2


def test_two_at_once_beside_a_run_lose_nothing(prepared: Path, tmp_path: Path) -> None:
    settings = old_lake(prepared, tmp_path / "home")
    before = contents(settings)
    barrier = processes().Barrier(3)
    started = [start(each, settings.home, barrier, _ROUNDS) for each in (maintain_often, maintain_often, write_often)]
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0, 0]
    after = contents(settings)
    for name in ("raw_orders", "stage_ledger", "quarantine_orders"):
        assert before[name] <= after[name]
    assert after["raw_orders"].total() == 5 * (6 + 3 * _ROUNDS)
    assert len(last_records(settings, "score", "beside")) == 3 * _ROUNDS
    assert min(night for night in last_records(settings, "score", "beside") if night) > DAY
    assert open_table(settings, TRAINING).to_pyarrow_table()["x"].to_pylist() == [99 + _ROUNDS] * 3
    for name in table_names(settings):
        assert_valid_log(settings.table_uri(name))
    assert open_table(settings, TRAINING, version=2).to_pyarrow_table()["x"].to_pylist() == [2, 2, 2]
