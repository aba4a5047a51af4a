"""The training set of a real-time model in real processes: killed with SIGKILL, and two at once, it ends as one's."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from offered_project.pipelines.offers import SHOWN
from offered_project.views import VISITS
from offered_sample import NIGHT, brief, land_offers, shown, visits
from warm import assert_valid_log

from forecache.base.settings import PROJECT_ROOT, Settings, load_settings
from forecache.kit.delta.tables import open_table
from forecache.lake.ingest.ingest import ingest
from forecache.operations.release import recorded_requests
from forecache.plugins.historical_features.training_set import build_examples

pytestmark = [pytest.mark.slow, pytest.mark.faults]

TABLE = "training_set_offers"


def settings_in(home: Path) -> Settings:
    return load_settings(home=home, project="offered_project", spark_master="local[2]")


def copied(landed: Path, home: Path) -> Settings:
    shutil.copytree(landed, home)
    return settings_in(home)


@pytest.fixture(scope="module")
def landed(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = settings_in(tmp_path_factory.mktemp("landed") / "home")
    land_offers(settings, visits(), shown(per_day=4))
    for source in (VISITS, SHOWN):
        ingest(settings, source)
    return settings.home_path


@pytest.fixture(scope="module")
def undisturbed(spark: Any, landed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, list[str]]:
    settings = copied(landed, tmp_path_factory.mktemp("quiet") / "home")
    build_examples(settings, brief, NIGHT)
    return contents(settings)


def contents(settings: Settings) -> tuple[pa.Table, list[str]]:
    rows = (
        open_table(settings, TABLE).to_pyarrow_table().sort_by([("request_id", "ascending"), ("position", "ascending")])
    )
    return rows, recorded_requests(settings, "offers")


def start(home: Path, *kill: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(PROJECT_ROOT), str(PROJECT_ROOT / "tests" / "support")])
    command = [sys.executable, "-m", "examples_job", str(home), *kill]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, env={**os.environ, "PYTHONPATH": path}, **pipes)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "ready":
        assert process.poll() is None
    return process


@pytest.mark.parametrize("step", ["transforming", "decided", "committed"])
def test_killed_at_any_step_it_is_made_good_by_the_next_run(
    spark: Any, landed: Path, undisturbed: tuple[pa.Table, list[str]], tmp_path: Path, step: str
) -> None:
    settings = copied(landed, tmp_path / "home")
    process = start(settings.home_path, step)
    process.communicate("go\n", timeout=300)
    assert process.returncode == -signal.SIGKILL
    result = build_examples(settings, brief, NIGHT)
    assert (result.skipped, result.delta_version) == (False, 1 if step == "committed" else 0)
    assert contents(settings) == undisturbed
    assert_valid_log(settings.table_uri(TABLE))
    assert build_examples(settings, brief, NIGHT).skipped


def test_two_at_once_write_one_version(landed: Path, undisturbed: tuple[pa.Table, list[str]], tmp_path: Path) -> None:
    settings = copied(landed, tmp_path / "home")
    both = [start(settings.home_path) for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = sorted(process.communicate(timeout=300)[0].strip() for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert answers == ["0 False", "0 True"]
    assert contents(settings) == undisturbed
    assert_valid_log(settings.table_uri(TABLE))
