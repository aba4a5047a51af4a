"""A challenger is scored beside the champion and compared with it, where it is asked for."""

import dataclasses
from contextlib import ExitStack
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from scoring_support import (
    NIGHT,
    features_table,
    make_pipeline,
    network,
    predictions,
    register_model,
    with_output,
    write_features,
)

from forecache.base.errors import CheckError
from forecache.base.results import no_progress
from forecache.base.settings import Settings
from forecache.base.steps import lake_step
from forecache.declare import Pipeline
from forecache.kit.delta.tables import open_table, table_version
from forecache.lake.ledger import last_record
from forecache.lake.stage_runner import hold_table_lock
from forecache.plugins.challengers.shadow import SHADOW_STAGE, dismiss_challenger, name_challenger, score_shadow
from forecache.plugins.drift.bins import binned_counts
from forecache.scoring import run
from forecache.scoring.night_inputs import STAGE
from forecache.scoring.run import score, score_nights

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PIPELINE = make_pipeline(num_features=4)


def tables(rows: int = 400, *, seed: int = 0, shift: float = 0.0, night: date = NIGHT) -> list[pa.Table]:
    made = features_table(rows, num_features=4, seed=seed, night=night)
    if shift:
        for name in ("f1", "f2", "f3"):
            position = made.schema.get_field_index(name)
            moved = pa.array(made[name].to_numpy() + np.float32(shift))
            made = made.set_column(position, name, moved)
    return [made]


@pytest.mark.slow
def test_a_challenger_gets_its_own_table_and_a_comparison_that_can_be_checked(
    spark: "SparkSession", settings: Settings
) -> None:
    write_features(settings, PIPELINE, tables())
    register_model(settings, PIPELINE)
    challenger = register_model(settings, PIPELINE, seed=1, champion=False)
    result = score_shadow(settings, PIPELINE, NIGHT, challenger, run_id="shadow")
    old, new = (
        predictions(settings, PIPELINE, table=name) for name in (PIPELINE.prediction_table, PIPELINE.challenger_table)
    )
    assert old.schema == new.schema
    assert set(old["model_version"].to_pylist()) == {1}
    assert set(new["model_version"].to_pylist()) == {2}
    a, b = old["probability"].to_numpy(), new["probability"].to_numpy()
    told = result.details["comparison"]
    assert told["rows"] == 400
    assert told["mean_difference"] == pytest.approx((b - a).mean())
    assert told["mean_absolute_difference"] == pytest.approx(abs(b - a).mean())
    assert told["largest_difference"] == pytest.approx(abs(b - a).max())
    assert told["correlation"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    moved = sum(x != y for x, y in zip(old["band"].to_pylist(), new["band"].to_pylist(), strict=True))
    assert told["segment_changes"] == {"band": moved}
    assert result.details["champion_written"]


@pytest.mark.slow
def test_a_champion_that_is_current_is_not_written_again_and_both_equal_scoring_alone(
    spark: "SparkSession", settings: Settings
) -> None:
    write_features(settings, PIPELINE, tables())
    register_model(settings, PIPELINE)
    alone = score(settings, PIPELINE, [NIGHT], engine="arrow", run_id="alone")
    challenger = register_model(settings, PIPELINE, seed=1, champion=False)
    result = score_shadow(settings, PIPELINE, NIGHT, challenger)
    assert not result.details["champion_written"]
    assert set(predictions(settings, PIPELINE)["run_id"].to_pylist()) == {"alone"}
    by_shadow = predictions(settings, PIPELINE, table=PIPELINE.challenger_table)
    score(settings, PIPELINE, [NIGHT], engine="arrow", model=challenger)
    by_itself = predictions(settings, PIPELINE)
    assert by_shadow["probability"].equals(by_itself["probability"])
    assert alone.rows == result.rows == 400


@pytest.mark.slow
def test_nights_that_both_models_have_scored_are_left_alone_and_their_comparison_is_kept(
    spark: "SparkSession", settings: Settings
) -> None:
    write_features(settings, PIPELINE, tables())
    register_model(settings, PIPELINE)
    challenger = register_model(settings, PIPELINE, seed=1, champion=False)
    first = score_shadow(settings, PIPELINE, NIGHT, challenger)
    again = score_shadow(settings, PIPELINE, NIGHT, challenger)
    assert (first.skipped, again.skipped) == (False, True)
    assert again.details["comparison"] == first.details["comparison"]
    assert again.delta_version == first.delta_version
    other = score_shadow(settings, PIPELINE, NIGHT, register_model(settings, PIPELINE, seed=2, champion=False))
    assert not other.skipped
    assert other.details["comparison"] != first.details["comparison"]


@pytest.mark.slow
def test_the_nightly_scores_a_challenger_only_where_one_is_named_and_asked_for(
    spark: "SparkSession", settings: Settings
) -> None:
    asking = dataclasses.replace(PIPELINE, shadow=True)
    write_features(settings, PIPELINE, tables())
    register_model(settings, PIPELINE)
    register_model(settings, PIPELINE, seed=1, champion=False)
    assert "challenger" not in score_nights(settings, asking, [NIGHT]).details
    with pytest.raises(CheckError, match="version 1 cannot be the challenger: it is the champion"):
        name_challenger(settings, PIPELINE, 1)
    name_challenger(settings, PIPELINE, 2)
    assert "challenger" not in score_nights(settings, PIPELINE, [NIGHT]).details
    result = score_nights(settings, asking, [NIGHT])
    told = result.details["challenger"]
    assert result.skipped  # the champion's rows were there
    assert told["model"] == "demo@2"
    assert told["nights"][NIGHT.isoformat()]["rows"] == 400
    dismissed = dismiss_challenger(settings, PIPELINE)
    assert dismissed is not None
    assert dismissed.version == 2
    assert dismiss_challenger(settings, PIPELINE) is None


@pytest.mark.slow
def test_a_challenger_whose_predictions_are_wrong_does_not_hold_the_champion_up(
    spark: "SparkSession", settings: Settings
) -> None:
    champion, challenger = (score_alone(PIPELINE, seed=seed) for seed in (0, 1))
    low, high = float(champion.min()) - 1e-3, float(champion.max()) + 1e-3
    assert challenger.min() < low or challenger.max() > high
    narrow = dataclasses.replace(with_output(PIPELINE, minimum=low, maximum=high), shadow=True)
    write_features(settings, narrow, tables())
    register_model(settings, narrow)
    register_model(settings, narrow, seed=1, champion=False)
    name_challenger(settings, narrow, 2)
    result = score_nights(settings, narrow, [NIGHT])
    assert not result.skipped
    assert result.rows == 400
    assert "are wrong" in result.details["challenger"]["nights"][NIGHT.isoformat()]["error"]
    assert len(predictions(settings, narrow)) == 400


def score_alone(pipeline: Pipeline, *, seed: int) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(network(4, seed=seed, output="probability"))
    (features,) = tables()
    matrix = np.stack([features[name].to_numpy() for name in pipeline.feature_names], axis=1).astype(np.float32)
    return session.run(None, {"x": matrix})[0]


def test_a_rebuild_scores_each_night_once_with_the_champion_whatever_becomes_of_the_challenger(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = dataclasses.replace(PIPELINE, shadow=True)
    register_model(settings, asking)
    challenger = register_model(settings, asking, seed=1, champion=False)
    name_challenger(settings, asking, challenger.version)
    days = [NIGHT - timedelta(days=i) for i in (2, 1, 0)]
    for i, day in enumerate(days):
        write_features(settings, asking, tables(40, seed=i, night=day), night=day)
    alone = partial(score, engine="arrow")
    alone(settings, asking, days, run_id="before")

    def shadow(spark: None, settings: Settings, pipeline: Pipeline, night: date, *_: object, **__: object) -> None:
        raise CheckError("The challenger cannot be scored.")

    monkeypatch.setattr("forecache.plugins.challengers.shadow.score_shadow", shadow)
    monkeypatch.setattr(run, "score", alone)
    version = table_version(settings, asking.prediction_table)
    result = score_nights(settings, asking, days, run_id="again", rebuild=True)  # type: ignore[arg-type]
    rows = open_table(settings, asking.prediction_table).to_pyarrow_table(columns=["as_of", "run_id"]).to_pylist()
    found = {row["as_of"]: row["run_id"] for row in rows}
    assert [found[day] for day in days] == ["again"] * 3
    assert result.details["scored_rows"] == 120
    assert table_version(settings, asking.prediction_table) == version + 1
    told = result.details["challenger"]["nights"]
    assert told == {day.isoformat(): {"error": "The challenger cannot be scored."} for day in days}


@pytest.mark.slow
def test_spark_and_arrow_count_the_same_bins(spark: "SparkSession", settings: Settings) -> None:
    register_model(settings, PIPELINE)
    nights = [NIGHT, NIGHT + timedelta(days=1)]
    for i, night in enumerate(nights):
        write_features(settings, PIPELINE, tables(500, seed=i, night=night), night=night)
    score(settings, PIPELINE, nights, engine="arrow")
    edges = [0.1, 0.5, 0.9]
    here = binned_counts(settings, PIPELINE.prediction_table, "probability", nights, edges)
    there = binned_counts(settings, PIPELINE.prediction_table, "probability", nights, edges)
    assert here == there
    assert {sum(counts) for counts in here.values()} == {500}


@pytest.mark.slow
def test_a_night_with_a_challenger_has_a_plan_of_both_models_and_what_came_of_it(
    spark: "SparkSession", settings: Settings
) -> None:
    asking = dataclasses.replace(PIPELINE, shadow=True)
    register_model(settings, asking)
    register_model(settings, asking, seed=1, champion=False)
    name_challenger(settings, asking, 2)
    days = [NIGHT - timedelta(days=i) for i in (2, 1, 0)]
    for i, day in enumerate(days):
        write_features(settings, asking, tables(seed=i, night=day), night=day)
    first = score_nights(settings, asking, days[:1]).details
    assert first["predicted"]["basis"] == "calibration"
    assert first["actual"]["rows"] == 800
    assert first["actual"]["rows_per_second"] == pytest.approx(800 / first["actual"]["seconds"], abs=1)
    second = score_nights(settings, asking, days[1:2]).details
    assert second["predicted"]["basis"] == "1 earlier night"
    assert second["predicted"]["seconds"] == pytest.approx(first["actual"]["seconds"], rel=1e-3)
    again = score_nights(settings, asking, days[1:2]).details
    assert "actual" not in again
    # Each model has its own record, and the cost of both is that of the night.
    score(settings, dataclasses.replace(asking, shadow=False), days[2:], mode="full")
    challenged = score_nights(settings, asking, days[2:]).details
    assert challenged["predicted"]["basis"] == "2 earlier nights"
    assert challenged["actual"]["rows"] == 400
    rows = [last_record(settings, stage, asking.name, days[0]) for stage in (STAGE, SHADOW_STAGE)]
    costs = [row.details["cost"]["core_s"] for row in rows if row is not None]
    assert len(costs) == 2
    assert min(costs) > 0


class Killed(BaseException):
    """What ends a run at once, as a kill does."""


@pytest.mark.slow
@pytest.mark.parametrize("side", ["champion", "challenger"])
def test_what_a_killed_run_committed_is_recorded_and_not_written_again(
    spark: "SparkSession", settings: Settings, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    write_features(settings, PIPELINE, tables())
    register_model(settings, PIPELINE)
    challenger = register_model(settings, PIPELINE, seed=1, champion=False)
    sides = {"champion": 1, "challenger": 2}
    passed: list[str] = []

    def kill(step: str) -> None:
        passed.append(step)
        if step == "committed" and passed.count("checked") == sides[side]:
            raise Killed

    monkeypatch.setattr(lake_step, "on_step", kill)
    with pytest.raises(Killed):
        score_shadow(settings, PIPELINE, NIGHT, challenger, run_id="killed")
    monkeypatch.setattr(lake_step, "on_step", None)
    result = score_shadow(settings, PIPELINE, NIGHT, challenger, run_id="next")
    assert result.details["champion_written"] is False
    names = (PIPELINE.prediction_table, PIPELINE.challenger_table)
    old, new = (predictions(settings, PIPELINE, table=name) for name in names)
    writers = ["killed", "killed" if side == "challenger" else "next"]
    assert [set(rows["run_id"].to_pylist()) for rows in (old, new)] == [{name} for name in writers]
    assert [table_version(settings, name) for name in names] == [0, 0]
    records = [last_record(settings, stage, PIPELINE.name, NIGHT) for stage in (STAGE, SHADOW_STAGE)]
    assert [row.rows for row in records if row] == [400, 400]
    told = result.details["comparison"]
    a, b = (rows.sort_by("user_id")["probability"].to_numpy() for rows in (old, new))
    assert told["rows"] == 400
    assert told["mean_absolute_difference"] == pytest.approx(abs(b - a).mean())
    again = score_shadow(settings, PIPELINE, NIGHT, challenger)
    assert again.skipped
    assert again.details["comparison"] == told


@pytest.mark.slow
def test_a_night_is_not_scored_with_both_models_while_another_run_writes_one_of_the_tables(
    spark: "SparkSession", settings: Settings
) -> None:
    write_features(settings, PIPELINE, tables())
    register_model(settings, PIPELINE)
    challenger = register_model(settings, PIPELINE, seed=1, champion=False)
    held = {name: ExitStack() for name in (PIPELINE.prediction_table, PIPELINE.challenger_table)}
    for name, turn in held.items():
        turn.enter_context(hold_table_lock(settings, name, "other", no_progress))
    waited: list[str] = []

    def release(message: str, share: float | None = None) -> None:
        if message.startswith("waiting for"):
            assert message.endswith(", run other)")
            waited.append(message.partition("writes ")[2].partition(",")[0])
            held[waited[-1]].close()

    assert score_shadow(settings, PIPELINE, NIGHT, challenger, progress=release).rows == 400
    assert waited == list(held)
