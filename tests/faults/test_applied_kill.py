"""A run that is killed as it numbers or judges a model leaves nothing that the next one would not have written."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from applied_sample import applied, register, sklearn_model
from deltalake import write_deltalake
from rules_project.pipelines.rules import rules
from scoring_support import features_table, predictions, write_features

from forecache.lake.ledger import all_records
from forecache.pipeline import FunctionModel, Labelled, Pipeline, RegisteredModel
from forecache.settings import Settings, load_settings

pytestmark = [pytest.mark.slow, pytest.mark.faults]
SUPPORT = Path(__file__).parent.parent / "support"

RUN = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from scoring_support import NIGHT
from test_applied_kill import made
from forecache.registry.applied import floors, numbers
from forecache.scoring.run import score
from forecache.settings import load_settings

kind, when = sys.argv[2:]
module = {"function": numbers, "registered": floors}[kind]
record = module.record

def killed(*given):
    if when == "after":
        record(*given)
    if when != "never":
        os.kill(os.getpid(), signal.SIGKILL)
    record(*given)

module.record = killed
score(None, load_settings(), made(kind), [NIGHT], engine="arrow")
"""


def made(kind: str) -> Pipeline:
    if kind == "function":
        return applied(FunctionModel(rules))
    judged_on = Labelled("labelled", "churned")
    returns = {"probability": "prediction[1]"}
    return applied(
        RegisteredModel("models:/churn_model@production", returns=returns, judged_on=judged_on, floors={"roc_auc": 0.8})
    )


def prepared(folder: Path) -> Settings:
    """A night of features, a registered model, and a table to judge it on."""
    settings = load_settings(home=folder / "home")
    write_features(settings, made("function"), [features_table(300, num_features=4)])
    sklearn_model(folder / "model")
    register(settings, folder / "model")
    rows = features_table(200, num_features=4, seed=5).drop_columns(["user_id", "as_of"])
    label = (rows["f1"].to_numpy() + rows["f2"].to_numpy() > 0).astype(float)
    write_deltalake(settings.table_uri("labelled"), rows.append_column("churned", pa.array(np.asarray(label))))
    return settings


def run(settings: Settings, kind: str, when: str) -> int:
    paths = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(Path(__file__).parent), kind, when],
        env={**os.environ, "FORECACHE_HOME": str(settings.home_path), "PYTHONPATH": paths},
        check=False,
    )
    return done.returncode


def contents(settings: Settings, kind: str) -> Any:
    """What is in the ledger and in the table, without times and the places of the two homes."""
    rows = [
        (
            row.stage,
            row.rows,
            re.sub(r"made=\S+ ", "", row.inputs),
            {name: value for name, value in row.details.items() if name != "uri"},
        )
        for stage in ("model", "judge")
        for row in all_records(settings, stage, "demo")
    ]
    found = predictions(settings, made(kind))
    return rows, found.drop_columns(["scored_at", "run_id"]).to_pylist()


@pytest.mark.parametrize("kind", ["function", "registered"])
def test_a_run_killed_beside_its_record_ends_as_one_that_was_left_alone(tmp_path: Path, kind: str) -> None:
    alone = prepared(tmp_path / "alone")
    assert run(alone, kind, "never") == 0
    expected = contents(alone, kind)
    assert len(expected[0]) == 1
    for when in ("before", "after"):
        settings = prepared(tmp_path / when)
        assert run(settings, kind, when) == -signal.SIGKILL
        assert run(settings, kind, "never") == 0
        assert contents(settings, kind) == expected, when
