"""Tiles and nights in real processes: killed with SIGKILL at each commit, and two at once, they end as one run's do."""

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from spark_worker import SparkWorker
from windows_job import NIGHTS
from windows_sample import SALES, VIEW, days_after, land, random_rows

from forecache.base.settings import Settings, load_settings
from forecache.kit.delta.tables import open_table
from forecache.lake.features import build_view
from forecache.lake.ingest.ingest import ingest

pytestmark = [pytest.mark.slow, pytest.mark.faults]

BUILD = "windows_job:build_until"


def contents(settings: Settings) -> dict[str, list[str]]:
    return {
        name: sorted(str(sorted(row.items())) for row in open_table(settings, name).to_pyarrow_table().to_pylist())
        for name in (VIEW.tile_table, VIEW.feature_table)
    }


@pytest.fixture(scope="module")
def landed(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("landed")
    settings, rng = load_settings(home=home, spark_master="local[2]"), random.Random(3)
    for number in range(6):
        land(settings, days_after(number), random_rows(rng, days_after(number), 10))
    ingest(settings, SALES)
    return home


@pytest.fixture(scope="module")
def undisturbed(spark: Any, landed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    settings = settings_of(landed, tmp_path_factory.mktemp("quiet") / "home")
    build_view(settings, VIEW, NIGHTS)
    return contents(settings)


def settings_of(landed: Path, home: Path) -> Settings:
    shutil.copytree(landed, home)
    return load_settings(home=home, spark_master="local[2]")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SparkWorker]]:
    started = [SparkWorker(tmp_path_factory.mktemp("worker") / "home", cores=2) for _ in range(2)]
    yield started
    for worker in started:
        worker.close()


# The tiles are committed and recorded first, then the nights.
@pytest.mark.parametrize(("step", "count"), [("decided", 1), ("committed", 1), ("decided", 3), ("committed", 3)])
def test_killed_at_a_commit_it_is_made_good_by_the_next_run(
    spark: Any,
    landed: Path,
    undisturbed: dict[str, list[str]],
    workers: list[SparkWorker],
    tmp_path: Path,
    step: str,
    count: int,
) -> None:
    settings = settings_of(landed, tmp_path / "home")
    killed = workers[0].call(BUILD, home=settings.home_path, step=step, count=count)
    assert killed == {"exit_code": -signal.SIGKILL}
    build_view(settings, VIEW, NIGHTS)
    assert contents(settings) == undisturbed


def test_two_runs_at_once_leave_what_one_does(
    landed: Path, undisturbed: dict[str, list[str]], workers: list[SparkWorker], tmp_path: Path
) -> None:
    settings = settings_of(landed, tmp_path / "home")
    for worker in workers:
        worker.tell(BUILD, home=settings.home_path)
    first, second = [worker.answer() for worker in workers]
    assert first == second > 0
    assert contents(settings) == undisturbed
