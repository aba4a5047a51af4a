"""A home in which two models were champion, one after the other, and each published what it scored."""

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import registry_sample as sample
from deltalake import write_deltalake
from registry_sample import NIGHT
from sample_project.pipelines.visits import returns
from training_sample import sample_rows, write_training_set

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import rollback_step
from forecache.declare import Pipeline
from forecache.kit.delta.tables import table_version
from forecache.lake.ledger import StageRecord, append_records
from forecache.models.registry import alias_moves as moves
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.operations.rollback import roll_back
from forecache.scoring.run import score
from forecache.serve.store import publish

FIRST, SECOND = sample.SLIGHTLY_WORSE, sample.GOOD


def write_features(settings: Settings, pipeline: Pipeline) -> None:
    """The night's features as the features stage would leave them."""
    rows = sample_rows(pipeline, 100, seed=3).drop_columns(["split", pipeline.label.name])
    night = pa.array([NIGHT] * rows.num_rows, pa.date32())
    rows = rows.set_column(rows.schema.get_field_index("as_of"), "as_of", night)
    write_deltalake(settings.table_uri(pipeline.feature_table), rows, partition_by=["as_of"])
    version = table_version(settings, pipeline.feature_table)
    append_records(
        settings, [StageRecord("features", pipeline.name, NIGHT, "made up", "", version, rows.num_rows, 0.0)]
    )


def new_champion(settings: Settings, weights: tuple[float, ...], pipeline: Pipeline = returns) -> int:
    """Register a model that passes the gate; returns its version."""
    training = sample.made_up_training(settings, pipeline, weights, training_version=2)
    version = int(register_trained_model(settings, pipeline, training).details["model_version"])
    assert run_gate(settings, pipeline, version, actor="test").champion_after == version
    return version


def score_night(settings: Settings, pipeline: Pipeline = returns) -> None:
    score(settings, pipeline, [NIGHT], engine="arrow")


def two_champions(settings: Settings, pipeline: Pipeline = returns) -> None:
    """Model 1 published version 1, then model 2 became the champion and published version 2."""
    write_training_set(settings, pipeline)
    write_features(settings, pipeline)
    for weights in (FIRST, SECOND):
        new_champion(settings, weights, pipeline)
        score_night(settings, pipeline)
        publish(settings, pipeline)


def roll_back_until(home: Path, step: str) -> None:
    """Roll back in a process that dies by SIGKILL after a step."""

    def die(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    rollback_step.on_step = die
    roll_back(load_settings(home=home), returns, actor="killed")


def promote_and_die(home: Path, moved_before: bool) -> None:
    """Promote version 1 in a process that dies by SIGKILL after its first row in the ledger, or after the move."""
    finish = moves.finish_move

    def die(*arguments: Any) -> None:
        if moved_before:
            finish(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(moves, "finish_move", die)
        moves.promote_version(load_settings(home=home), returns, 1, actor="killed")
