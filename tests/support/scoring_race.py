"""What a killed or a second scoring process runs: it imports this module, and a test says when it dies or waits."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from scoring_support import NIGHT, features_table, make_pipeline, register_model

from forecache.base.errors import ConflictError
from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import lake_step
from forecache.lake.ledger import StageRecord, append_records
from forecache.models.registry.applied import scoring_plan as plan
from forecache.models.registry.model_versions import ModelVersion
from forecache.scoring import run
from forecache.scoring.partitions import shards

PIPELINE = make_pipeline()
ROWS = 60


def prepare_nights(settings: Settings, count: int) -> list[date]:
    """Nights that all have the same features, in two files each, entered in the ledger."""
    nights = [NIGHT + timedelta(days=i) for i in range(count)]
    uri = settings.table_uri(PIPELINE.feature_table)
    for part in range(2):
        tables = [features_table(ROWS // 2, seed=part, first=part * ROWS // 2, night=night) for night in nights]
        write_deltalake(uri, pa.concat_tables(tables), mode="append", partition_by=["as_of"])
    rows = [StageRecord("features", PIPELINE.name, night, "v1", "", 1, ROWS, 0.0) for night in nights]
    append_records(settings, rows)
    return nights


@dataclass(frozen=True)
class Model:
    """A registered version, and its folder: asking the registry for it would take longer than the run."""

    version: ModelVersion
    folder: Path


def a_model(settings: Settings, seed: int) -> Model:
    version = register_model(settings, PIPELINE, seed=seed)
    return Model(version, settings.home_path / f"model-{PIPELINE.name}-20-{seed}")


def score_nights(settings: Settings, nights: Sequence[date], model: Model, run_id: str = "") -> StageResult:
    """Score without a JVM; the night's two feature files are two shards."""
    shards.SHARDED_ROWS = 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan, "verified_folder", lambda *_: model.folder)
        return run.score(settings, PIPELINE, nights, run_id=run_id, engine="arrow", model=model.version)


def run_until(home: Path, nights: Sequence[date], model: Model, last: int, told: Any) -> None:
    """Score and die by SIGKILL after so many steps; -1: live. Steps are told through a pipe."""
    count = 0

    def die(name: str) -> None:
        nonlocal count
        told.send(name)
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    lake_step.on_step = die
    score_nights(load_settings(home=home, code_version="fixed"), nights, model, "killed")


def race(home: Path, lake: str, rounds: Sequence[tuple[date, Model]], barrier: Any, told: Any) -> None:
    """Score one night after the other, each when the other process has come as far, and say what became of it."""
    settings = load_settings(home=home, lake=lake, code_version="fixed")
    met = False

    def meet(name: str) -> None:
        nonlocal met
        if name == "checked" and not met:
            met = True
            barrier.wait(120)

    lake_step.on_step = meet
    for position, (night, model) in enumerate(rounds):
        met = False
        barrier.wait(120)
        try:
            result = score_nights(settings, [night], model, f"{home.name}-{position}")
        except ConflictError as error:
            told.send(str(error))
        else:
            told.send(result.details["taken_over"])
        barrier.wait(120)


def score_when_told(home: Path, night: date, model: Model, told: Any, go: Any) -> None:
    """Score a night, hold before the commit until told to go on, and tell what is said and how it ended."""
    lake_step.on_step = lambda name: go.wait(120) if name == "checked" else None
    settings = load_settings(home=home, code_version="fixed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan, "verified_folder", lambda *_: model.folder)
        result = run.score(
            settings,
            PIPELINE,
            [night],
            run_id=str(os.getpid()),
            engine="arrow",
            model=model.version,
            progress=lambda text, share=None: told.send(text),
        )
    told.send(result.skipped)
