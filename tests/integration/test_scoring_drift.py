"""A night's scores are held against earlier ones and against the test split of their model, and what blocks is kept."""

import dataclasses
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import registry_sample as sample
from sample_project.pipelines.visits import returns
from scoring_support import NIGHT, features_table, make_pipeline, register_model, write_features
from training_sample import write_training_set

from forecache.base.errors import CheckError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare import Drift, Pipeline
from forecache.kit.delta.comparison.partition import partition_digests
from forecache.kit.delta.tables import open_table
from forecache.lake.ledger import StageRecord, append_records
from forecache.lake.quality.validate import CheckReport
from forecache.lake.quality.verdicts import STAGE, refuse_failed_date, require_passed
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.plugins.drift import prediction_drift as drift
from forecache.plugins.drift.prediction_drift import check_drift, prediction_drift
from forecache.scoring.run import score

PIPELINE = make_pipeline(num_features=4)
NIGHTS = [NIGHT + timedelta(days=i) for i in range(5)]


def score_nights(
    settings: Settings, pipeline: Pipeline, nights: Sequence[date], *, rows: int = 2000, shift: float = 0.0
) -> None:
    for night in nights:
        made = features_table(rows, num_features=4, seed=night.toordinal(), night=night)
        for name in ("f1", "f2", "f3") if shift else ():
            moved = pa.array(made[name].to_numpy() + np.float32(shift))
            made = made.set_column(made.schema.get_field_index(name), name, moved)
        write_features(settings, pipeline, [made], night=night)
    score(settings, pipeline, nights, engine="arrow")


def test_scores_that_moved_are_told_by_their_effect_size(settings: Settings) -> None:
    register_model(settings, PIPELINE)
    score_nights(settings, PIPELINE, NIGHTS[:4])
    score_nights(settings, PIPELINE, NIGHTS[4:], shift=8.0)
    calm = prediction_drift(settings, PIPELINE, NIGHTS[3])
    moved = prediction_drift(settings, PIPELINE, NIGHTS[4])
    assert (calm.level, moved.level) == ("none", "large")
    assert moved.distances["nights before"].reference_rows == 8000
    assert sum(moved.counts) == 2000
    assert moved.metadata()["distances"]["nights before"]["psi"] > 0.25
    with pytest.raises(NotFoundError, match="has no predictions for the as-of date"):
        prediction_drift(settings, PIPELINE, NIGHTS[4] + timedelta(days=1))


def test_the_first_nights_are_compared_with_what_there_is(settings: Settings) -> None:
    register_model(settings, PIPELINE)
    score_nights(settings, PIPELINE, NIGHTS[:3])
    reports = check_drift(settings, PIPELINE, NIGHTS[:3])
    assert [len(report.nights) for report in reports.values()] == [0, 1, 2]
    assert {report.level for report in reports.values()} == {"none"}
    assert "No date before it was scored." in reports[NIGHTS[0]].sentence
    assert "against the as-of date before." in reports[NIGHTS[1]].sentence
    assert prediction_drift(settings, PIPELINE, NIGHTS[2], last=1).nights == (NIGHTS[1],)


def test_a_new_model_is_compared_with_its_own_nights_only(settings: Settings) -> None:
    register_model(settings, PIPELINE)
    score_nights(settings, PIPELINE, NIGHTS[:2])
    register_model(settings, PIPELINE, seed=5)
    score_nights(settings, PIPELINE, NIGHTS[2:4])
    first, second = check_drift(settings, PIPELINE, NIGHTS[2:4]).values()
    assert first.is_new_model
    assert first.distances["nights before"].psi > 0.25
    assert first.level == "none"
    assert "Model 2 scores for the first time" in first.sentence
    assert second.nights == (NIGHTS[2],)
    assert second.level == "none"


def test_what_was_counted_is_not_read_again_unless_the_night_was_scored_anew(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_model(settings, PIPELINE)
    score_nights(settings, PIPELINE, NIGHTS[:3])
    check_drift(settings, PIPELINE, NIGHTS[:3])
    score_nights(settings, PIPELINE, NIGHTS[3:4])
    read: list[date] = []
    count = drift.binned_counts

    def counting(settings: Settings, table: str, column: str, nights: Sequence[date], edges: Any) -> Any:
        read.extend(nights)
        return count(settings, table, column, nights, edges)

    monkeypatch.setattr(drift, "binned_counts", counting)
    kept = check_drift(settings, PIPELINE, NIGHTS[3:4])[NIGHTS[3]]
    assert read == NIGHTS[3:4]
    read.clear()
    score_nights(settings, PIPELINE, NIGHTS[1:2], rows=1000)
    anew = check_drift(settings, PIPELINE, NIGHTS[3:4])[NIGHTS[3]]
    assert read == NIGHTS[1:2]
    assert kept.distances["nights before"].reference_rows == 6000
    assert anew.distances["nights before"].reference_rows == 5000


def test_a_large_effect_keeps_a_night_from_being_published_only_where_that_is_declared(settings: Settings) -> None:
    register_model(settings, PIPELINE)
    score_nights(settings, PIPELINE, NIGHTS[:2])
    score_nights(settings, PIPELINE, NIGHTS[2:3], shift=8.0)
    blocking = dataclasses.replace(PIPELINE, drift=Drift(blocking=True))
    check_drift(settings, PIPELINE, NIGHTS[1:3])
    refuse_failed_date(settings, PIPELINE.prediction_table, NIGHTS[2])
    check_drift(settings, blocking, NIGHTS[1:3])
    refuse_failed_date(settings, PIPELINE.prediction_table, NIGHTS[1])
    with pytest.raises(CheckError, match="has drifted too far: probability has moved far"):
        refuse_failed_date(settings, PIPELINE.prediction_table, NIGHTS[2])


def test_a_drift_that_was_measured_on_other_rows_of_the_night_does_not_count(settings: Settings) -> None:
    register_model(settings, PIPELINE)
    score_nights(settings, PIPELINE, NIGHTS[:2])
    check_drift(settings, PIPELINE, NIGHTS[1:2])
    require_passed(settings, PIPELINE.prediction_table, NIGHTS[1], state=passed(settings, NIGHTS[1]))
    score_nights(settings, PIPELINE, NIGHTS[1:2], rows=1000)
    with pytest.raises(CheckError, match="was not measured on the rows that are there now"):
        require_passed(settings, PIPELINE.prediction_table, NIGHTS[1], state=passed(settings, NIGHTS[1]))
    check_drift(settings, PIPELINE, NIGHTS[1:2])
    require_passed(settings, PIPELINE.prediction_table, NIGHTS[1], state=passed(settings, NIGHTS[1]), drift=True)
    with pytest.raises(CheckError, match="was not measured on the rows that are there now"):
        require_passed(settings, PIPELINE.prediction_table, NIGHTS[0], state=passed(settings, NIGHTS[0]), drift=True)


def test_rows_that_no_run_recorded_are_counted_and_not_taken_for_those_before(settings: Settings) -> None:
    register_model(settings, PIPELINE)
    score_nights(settings, PIPELINE, NIGHTS[:2])
    check_drift(settings, PIPELINE, NIGHTS[:2])
    delta = open_table(settings, PIPELINE.prediction_table)
    delta.delete(f"as_of = '{NIGHTS[1]}' AND user_id < 'u00001000'")
    there = delta.to_pyarrow_table(filters=[("as_of", "=", NIGHTS[1])]).num_rows
    assert there == 1000
    assert sum(check_drift(settings, PIPELINE, NIGHTS[1:2])[NIGHTS[1]].counts) == there


def passed(settings: Settings, night: date) -> str:
    """Record that the night as it is now passed its check; returns what identifies its rows."""
    table = PIPELINE.prediction_table
    state = partition_digests(open_table(settings, table), "as_of", [night])[night]
    report = CheckReport(table, (), 1, 0.1).to_dict()
    append_records(settings, [StageRecord(STAGE, table, night, f"{state} rules", table, -1, 1, 0.1, report)])
    return state


@pytest.mark.slow
def test_the_test_split_of_the_model_that_scored_the_night_is_a_reference(settings: Settings) -> None:
    write_training_set(settings, returns)
    training = sample.made_up_training(settings, returns, sample.GOOD, training_version=2)
    version = register_trained_model(settings, returns, training).details["model_version"]
    assert run_gate(settings, returns, version, actor="test").passed
    rows = rows_of_test_split(settings, returns)
    write_features(settings, returns, [rows])
    score(settings, returns, [NIGHT], engine="arrow")
    report = check_drift(settings, returns, [NIGHT])[NIGHT]
    apart = report.distances["test split"]
    assert apart.rows == apart.reference_rows == rows.num_rows
    assert (apart.psi, report.level) == (0.0, "none")
    assert f"against the test split of model {version}" in report.sentence


def rows_of_test_split(settings: Settings, pipeline: Pipeline) -> pa.Table:
    """The rows of the test split as the features of a night."""
    from deltalake import DeltaTable

    table = DeltaTable(settings.table_uri(pipeline.training_table), version=2).to_pyarrow_table(
        columns=[*pipeline.key, *pipeline.feature_names], filters=[("split", "=", "test")]
    )
    night = pa.array([NIGHT] * table.num_rows, pa.date32())
    return table.add_column(len(pipeline.key), "as_of", night)
