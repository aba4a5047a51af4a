"""A challenger is scored beside the champion in one scan, and a night's scores are held against earlier ones."""

from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from scoring_support import NIGHT, features_table, make_pipeline, predictions, register_model, write_features

from forecache.errors import NotFoundError
from forecache.scoring.distribution import binned_counts
from forecache.scoring.drift import prediction_drift
from forecache.scoring.run import score
from forecache.scoring.shadow import challenger_table, score_shadow
from forecache.settings import Settings

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
    result = score_shadow(spark, settings, PIPELINE, NIGHT, challenger, run_id="shadow")
    old, new = (
        predictions(settings, PIPELINE, table=name) for name in (PIPELINE.prediction_table, challenger_table(PIPELINE))
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
    alone = score(None, settings, PIPELINE, [NIGHT], engine="arrow", run_id="alone")
    challenger = register_model(settings, PIPELINE, seed=1, champion=False)
    result = score_shadow(spark, settings, PIPELINE, NIGHT, challenger)
    assert not result.details["champion_written"]
    assert set(predictions(settings, PIPELINE)["run_id"].to_pylist()) == {"alone"}
    by_shadow = predictions(settings, PIPELINE, table=challenger_table(PIPELINE))
    score(None, settings, PIPELINE, [NIGHT], engine="arrow", model=challenger)
    by_itself = predictions(settings, PIPELINE)
    assert by_shadow["probability"].equals(by_itself["probability"])
    assert alone.rows == result.rows == 400


def test_scores_that_moved_are_told_by_their_effect_size(settings: Settings) -> None:
    register_model(settings, PIPELINE)
    nights = [NIGHT + timedelta(days=i) for i in range(5)]
    for i, night in enumerate(nights):
        write_features(settings, PIPELINE, tables(2000, seed=i, shift=8.0 if i == 4 else 0, night=night), night=night)
    score(None, settings, PIPELINE, nights, engine="arrow")
    calm = prediction_drift(settings, PIPELINE, nights[3])
    moved = prediction_drift(settings, PIPELINE, nights[4])
    assert calm.level == "none"
    assert moved.level == "large"
    assert moved.distances["nights before"].reference_rows == 8000
    assert sum(moved.counts) == 2000
    assert moved.metadata()["distances"]["nights before"]["psi"] > 0.25
    assert prediction_drift(settings, PIPELINE, nights[0]).distances == {}
    with pytest.raises(NotFoundError, match="has no predictions for the night"):
        prediction_drift(settings, PIPELINE, nights[4] + timedelta(days=1))


@pytest.mark.slow
def test_spark_and_arrow_count_the_same_bins(spark: "SparkSession", settings: Settings) -> None:
    register_model(settings, PIPELINE)
    nights = [NIGHT, NIGHT + timedelta(days=1)]
    for i, night in enumerate(nights):
        write_features(settings, PIPELINE, tables(500, seed=i, night=night), night=night)
    score(None, settings, PIPELINE, nights, engine="arrow")
    edges = [0.1, 0.5, 0.9]
    here = binned_counts(None, settings, PIPELINE.prediction_table, "probability", nights, edges)
    there = binned_counts(spark, settings, PIPELINE.prediction_table, "probability", nights, edges)
    assert here == there
    assert {sum(counts) for counts in here.values()} == {500}
