"""A run that is killed as it numbers or judges a model leaves nothing that the next one would not have written."""

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from applied_job import pipeline_of, score_night
from applied_sample import register, sklearn_model
from deltalake import write_deltalake
from scoring_support import features_table, predictions, write_features
from warm import start

from forecache.base.settings import Settings, load_settings
from forecache.lake.ledger import all_records

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a night of features, a registered model, and a table to judge it on."""
    folder = tmp_path_factory.mktemp("prepared")
    settings = load_settings(home=folder / "home")
    write_features(settings, pipeline_of("function"), [features_table(300, num_features=4)])
    sklearn_model(folder / "model")
    register(settings, folder / "model")
    rows = features_table(200, num_features=4, seed=5).drop_columns(["user_id", "as_of"])
    label = (rows["f1"].to_numpy() + rows["f2"].to_numpy() > 0).astype(float)
    write_deltalake(settings.table_uri("labelled"), rows.append_column("churned", pa.array(np.asarray(label))))
    return settings.home_path


def copied(prepared: Path, home: Path) -> Settings:
    return load_settings(home=shutil.copytree(prepared, home))


def run(settings: Settings, kind: str, when: str) -> int | None:
    """Score in a process of its own; how it ended."""
    process = start(score_night, str(settings.home_path), kind, when)
    process.join(120)
    return process.exitcode


def contents(settings: Settings, kind: str) -> Any:
    """What is in the ledger and in the table, without times, costs and the places of the two homes."""
    rows = [
        (
            row.stage,
            row.rows,
            re.sub(r"made=\S+ ", "", row.inputs),
            {name: value for name, value in row.details.items() if name not in ("uri", "cost")},
        )
        for stage in ("model", "judge")
        for row in all_records(settings, stage, "demo")
    ]
    found = predictions(settings, pipeline_of(kind))
    return rows, found.drop_columns(["scored_at", "run_id"]).to_pylist()


@pytest.mark.parametrize("kind", ["function", "registered"])
def test_a_run_killed_beside_its_record_ends_as_one_that_was_left_alone(
    prepared: Path, tmp_path: Path, kind: str
) -> None:
    alone = copied(prepared, tmp_path / "alone")
    assert run(alone, kind, "never") == 0
    expected = contents(alone, kind)
    assert len(expected[0]) == 1
    for when in ("before", "after"):
        settings = copied(prepared, tmp_path / when)
        assert run(settings, kind, when) == -signal.SIGKILL
        assert run(settings, kind, "never") == 0
        assert contents(settings, kind) == expected, when
