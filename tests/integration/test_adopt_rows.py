"""Rows of a trial's table are taken over as they are, whatever else the trial has tried, and beside maintenance."""

import os
import shutil
import time
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import Schema

from forecache.base.results import no_progress
from forecache.base.settings import Settings, trial_settings
from forecache.base.steps import lake_step
from forecache.declare import Training
from forecache.kit.delta.files import RETENTION
from forecache.kit.delta.partitions import find_committed_partitions, take_snapshot
from forecache.kit.delta.tables import commit_partitions, open_table, replace_table
from forecache.kit.delta.writers import write_rows
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.models.training.spec import TrainingSpec
from forecache.plugins.maintenance.table import remove_unused_files
from forecache.plugins.plan.estimates import Estimator
from forecache.plugins.trials import adopt as adopt_module
from forecache.plugins.trials.adopt import adopt_partitions
from forecache.plugins.trials.trial import fork

DAY, TABLE = date(2026, 1, 1), "features_x"


def compute(settings: Settings, inputs: str, *, num_rows: int = 1, **columns: float) -> None:
    """Write and record the rows of a date, as the stage of features does."""
    row = pa.table({"customer": [1], "as_of": [DAY], **{name: [value] for name, value in columns.items()}})
    rows = row.slice(0, num_rows)
    seen = take_snapshot(settings, TABLE, "as_of")
    written = Schema.from_arrow(rows.schema), write_rows(rows, settings, TABLE, partition_by=["as_of"])
    done = commit_partitions(
        written, settings, TABLE, column="as_of", values=[DAY], seen=seen, inputs={DAY: inputs}
    )  # fmt: skip
    outcome = StageOutcome(num_rows, {}, TABLE, done.version)
    Stage(settings, "features", "x").record({DAY: outcome}, {DAY: inputs}, 1.0)


def adopt(settings: Settings, inputs: str) -> None:
    stage, seen = Stage(settings, "features", "x"), take_snapshot(settings, TABLE, "as_of")
    adopt_partitions(stage, TABLE, {DAY: inputs}, column="as_of", seen=seen, progress=no_progress)
    assert [*find_committed_partitions(settings, TABLE, column="as_of", inputs={DAY: inputs})] == [DAY]


@pytest.fixture
def tried(settings: Settings) -> Settings:
    """A trial in which a column was added, and then left out again."""
    compute(settings, "code=old", amount=1.0)
    fork(settings, "x")
    trial = trial_settings(settings, "x")
    compute(trial, "code=wider", amount=2.0, other=3.0)
    compute(trial, "code=new", amount=4.0)
    return trial


def test_a_column_that_was_tried_and_left_out_again_stays_in_the_trial(settings: Settings, tried: Settings) -> None:
    adopt(settings, "code=new")
    rows = open_table(settings, TABLE).to_pyarrow_table()
    assert rows.to_pylist() == [{"customer": 1, "as_of": DAY, "amount": 4.0}]


def test_a_date_without_rows_is_left_to_the_run_as_no_file_tells_its_columns(
    settings: Settings, tried: Settings
) -> None:
    compute(tried, "code=empty", num_rows=0, amount=5.0)
    stage, seen = Stage(settings, "features", "x"), take_snapshot(settings, TABLE, "as_of")
    found = adopt_partitions(stage, TABLE, {DAY: "code=empty"}, column="as_of", seen=seen, progress=no_progress)
    assert found == {}
    assert open_table(settings, TABLE).to_pyarrow_table().column_names == ["customer", "as_of", "amount"]


def test_maintenance_leaves_old_files_of_a_trial_that_are_about_to_be_committed(
    settings: Settings, tried: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = time.time() - 2 * RETENTION.total_seconds()
    for path in Path(tried.lake_uri, TABLE).rglob("*.parquet"):
        os.utime(path, (long_ago, long_ago))
    removed = []

    def maintain(step: str) -> None:
        if step == "decided":
            monkeypatch.setattr(lake_step, "on_step", None)
            removed.append(remove_unused_files(settings, TABLE, [], RETENTION))

    monkeypatch.setattr(lake_step, "on_step", maintain)
    adopt(settings, "code=new")
    assert removed == [0]
    assert open_table(settings, TABLE).to_pyarrow_table()["amount"].to_pylist() == [4.0]


def test_rows_that_a_trial_replaces_while_it_is_read_are_left_out(
    settings: Settings, tried: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(trial: Settings, table: str, **more: Any) -> Any:
        found = find_committed_partitions(trial, table, **more)
        if trial.base is not None and found:
            compute(tried, "code=newer", amount=8.0)
        return found

    monkeypatch.setattr(adopt_module, "find_committed_partitions", find)
    adopt(settings, "code=new")
    assert open_table(settings, TABLE).to_pyarrow_table()["amount"].to_pylist() == [4.0]


def test_a_trial_of_a_lake_that_was_replaced_is_left_out(settings: Settings, tried: Settings) -> None:
    shutil.rmtree(settings.home_path)
    compute(settings, "code=old", amount=1.0)
    stage, seen, said = Stage(settings, "features", "x"), take_snapshot(settings, TABLE, "as_of"), list[str]()
    for inputs in ("code=other", "code=new"):  # nothing is said of a trial that has nothing to be taken over
        found = adopt_partitions(
            stage, TABLE, {DAY: inputs}, column="as_of", seen=seen, progress=lambda what, _: said.append(what)
        )  # fmt: skip
        assert found == {}
    assert said == ["the trial local/x is left out: it was forked from a lake that was replaced since"]
    assert open_table(settings, TABLE).to_pyarrow_table()["amount"].to_pylist() == [1.0]


def test_a_trial_whose_ledger_cannot_be_read_keeps_no_work_of_another_from_the_run(
    settings: Settings, tried: Settings
) -> None:
    fork(settings, "y")
    for path in Path(trial_settings(settings, "y").lake_uri, "stage_ledger", "_delta_log").glob("*.json"):
        path.unlink()  # it is a link
        path.write_text("{")
    adopt(settings, "code=new")


def test_what_is_taken_over_is_no_measure_of_what_the_stage_takes(settings: Settings, tried: Settings) -> None:
    rows = pa.table({"customer": [1]})
    version = replace_table(
        tried, "training_set_x", Schema.from_arrow(rows.schema), write_rows(rows, tried, "training_set_x")
    )
    told = {"splits": {"train": 1}, "cost": {"core_s": 90.0, "nights": 1}}
    Stage(tried, "training_set", "x").record(
        {None: StageOutcome(1, told, "training_set_x", version)}, {None: "label=ab"}, 9.0
    )
    stage = Stage(settings, "training_set", "x")

    def take_over() -> StageOutcome:
        found = adopt_module.adopt_table(stage, "training_set_x", "label=ab", state=(), progress=no_progress)
        assert found is not None
        return found

    record, _ = stage.run_once("label=ab", take_over)
    assert (record.seconds, record.details) == (0.0, {"splits": {"train": 1}})
    assert Estimator(settings, ["x"]).estimate("training_set", "x", dates=0, rows=None).is_guess


@pytest.mark.parametrize("lost", ["spec.json", "model.lgb", "refit/model.lgb"])
def test_a_training_that_lacks_a_file_is_left_out(settings: Settings, tried: Settings, lost: str) -> None:
    folder = tried.training_path / "x" / "0123"
    folder.mkdir(parents=True)
    training = Training(num_as_of=1, every_days=1)
    TrainingSpec(run_dir=str(folder), pipeline="x", table_uri="", table_version=0, inputs="", training=training).save()
    for name, content in (("result.json", '{"refit": {}}'), ("model.lgb", "tree"), ("refit/model.lgb", "tree")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    done = StageOutcome(1, {"run_dir": str(folder)})
    Stage(tried, "train", "x").record({None: done}, {None: "declared=ab"}, 1.0)
    stage, said = Stage(settings, "train", "x"), list[str]()

    def find() -> Path | None:
        return adopt_module.find_equal_training(stage, "declared=ab", progress=lambda what, _: said.append(what))

    assert find() == folder
    (folder / lost).unlink()
    assert find() is None
    assert said[-1].startswith("the trial local/x is left out, as it cannot be read: ")
