"""A scoring run killed with SIGKILL while it scores is taken up: the same table, and hardly any work done twice."""

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from scoring_job import score_in_parts
from scoring_support import NIGHT, features_table, make_pipeline, predictions, register_model, write_features
from warm import processes, start

from forecache.base.settings import Settings, load_settings
from forecache.declare import Pipeline
from forecache.models.registry.model_versions import champion
from forecache.scoring.night_inputs import describe_nights
from forecache.scoring.partitions.shards import list_staged
from forecache.scoring.run import score

pytestmark = [pytest.mark.slow, pytest.mark.faults]

FILES = 24
ROWS = 25_000


def started(settings: Settings, engine: str) -> tuple[Any, Any]:
    """A process that scores, and where it tells how far it is."""
    ours, theirs = processes().Pipe(duplex=False)
    process = start(score_in_parts, settings.home_path, engine, theirs)
    theirs.close()
    assert ours.recv() == "ready"
    return process, ours


def staged_rows(settings: Settings, pipeline: Pipeline) -> int:
    return ROWS * sum(1 for path in _shards(settings, pipeline) if any(path.glob("part-*.parquet")))


def kept_rows(settings: Settings, pipeline: Pipeline) -> int:
    """Rows in complete parts, as the next run will find them."""
    as_started = settings.model_copy(update={"code_version": "fixed"})
    night = describe_nights(as_started, pipeline, champion(settings, pipeline), [NIGHT], {})[0]
    staged = list_staged(settings, pipeline.prediction_table, night)
    return sum(file.rows for files in staged.values() for file in files)


def _shards(settings: Settings, pipeline: Pipeline) -> list[Path]:
    folder = Path(settings.table_uri(pipeline.prediction_table)) / f"as_of={NIGHT}"
    return [path for path in folder.glob("*/shard=*") if path.is_dir()] if folder.is_dir() else []


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with features and a champion."""
    home, pipeline = tmp_path_factory.mktemp("prepared") / "home", make_pipeline()
    settings = load_settings(home=home)
    write_features(settings, pipeline, [features_table(ROWS, seed=i, first=i * ROWS) for i in range(FILES)])
    register_model(settings, pipeline)
    return home


@pytest.fixture(scope="module")
def expected(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The table of a run that nobody kills, on a lake of its own."""
    home = tmp_path_factory.mktemp("whole") / "home"
    shutil.copytree(prepared, home)
    settings, pipeline = load_settings(home=home), make_pipeline()
    score(settings, pipeline, [NIGHT], engine="arrow")
    return _content(settings, pipeline)


def _content(settings: Settings, pipeline: Pipeline) -> pa.Table:
    return predictions(settings, pipeline).drop_columns(["scored_at", "run_id"])


@pytest.mark.parametrize("engine", ["arrow", "spark"])
def test_a_run_killed_at_random_moments_ends_with_the_same_table_and_little_extra_work(
    prepared: Path, expected: pa.Table, settings: Settings, engine: str
) -> None:
    pipeline, moments, left = make_pipeline(), random.Random(5), 0
    while not left:
        shutil.rmtree(settings.home_path, ignore_errors=True)
        shutil.copytree(prepared, settings.home_path)
        left = _left_after_kills(settings, pipeline, engine, moments)
    process, told = started(settings, engine)
    assert told.recv() == left
    process.join(120)
    assert process.exitcode == 0
    assert left < FILES * ROWS
    assert _content(settings, pipeline).equals(expected)


def _left_after_kills(settings: Settings, pipeline: Pipeline, engine: str, moments: random.Random) -> int:
    """Kill three runs, one after the other, and return how many rows they have left to score.

    None where a run was done before it could be killed, as this process may have to wait for longer than a run takes.
    """
    for _ in range(3):
        process, _ = started(settings, engine)
        _wait_for_shards(settings, pipeline, process, more=moments.randint(1, 4))
        time.sleep(moments.random() * 0.02)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        if (Path(settings.table_uri(pipeline.prediction_table)) / "_delta_log").exists():
            assert predictions(settings, pipeline).num_rows == FILES * ROWS, "it committed before it had scored all"
            return 0
    return FILES * ROWS - kept_rows(settings, pipeline)


def _wait_for_shards(settings: Settings, pipeline: Pipeline, process: Any, *, more: int) -> None:
    """Return when a run has written so many shards more, or has ended."""
    before = staged_rows(settings, pipeline)
    for _ in range(12_000):
        if staged_rows(settings, pipeline) >= before + more * ROWS or process.exitcode is not None:
            return
        time.sleep(0.01)
    raise AssertionError("no shard appeared")
