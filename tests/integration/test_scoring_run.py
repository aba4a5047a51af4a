"""A night is scored once, checked before it is visible, taken up where a run ended, and equal whatever the engine."""

import dataclasses
import re
import shutil
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from scoring_support import (
    NIGHT,
    features_table,
    make_pipeline,
    predictions,
    register_model,
    with_output,
    write_features,
)

from forecache.base.errors import CheckError, InputError, NotFoundError
from forecache.base.settings import Settings, load_settings
from forecache.declare import Pipeline
from forecache.lake.ledger import last_record
from forecache.lake.query import query
from forecache.scoring.night_inputs import Engine
from forecache.scoring.partitions import commit as committing
from forecache.scoring.partitions import shards
from forecache.scoring.run import score
from forecache.scoring.tasks import job

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

VALUES = ("user_id", "as_of", "probability", "band", "model_name", "model_version", "feature_version")


@pytest.fixture
def pipeline() -> Pipeline:
    return make_pipeline(num_features=4)


def parts(count: int, rows: int = 300, *, seed: int = 0, night: date = NIGHT) -> list[pa.Table]:
    return [features_table(rows, num_features=4, seed=seed + i, first=i * rows, night=night) for i in range(count)]


@pytest.fixture
def scored(settings: Settings, pipeline: Pipeline) -> Settings:
    """A night of 900 entities in three files, and a champion."""
    write_features(settings, pipeline, parts(3))
    register_model(settings, pipeline)
    return settings


def values(table: pa.Table) -> list[dict[str, Any]]:
    return table.select(list(VALUES)).to_pylist()


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARDED_ROWS", 500)


@pytest.mark.slow
def test_both_engines_write_the_same_rows_to_the_bit(
    spark: "SparkSession", scored: Settings, pipeline: Pipeline, small_shards: None
) -> None:
    next_night = NIGHT + timedelta(days=1)
    write_features(scored, pipeline, parts(2, 50, seed=9, night=next_night), night=next_night)
    by_spark = score(scored, pipeline, [NIGHT, next_night], run_id="one")
    tables = [predictions(scored, pipeline, night=night) for night in (NIGHT, next_night)]
    other = with_output(pipeline, maximum=2.0)  # another declaration, so that everything is scored again
    by_arrow = score(scored, other, [NIGHT, next_night], run_id="two", engine="arrow")
    assert (by_spark.rows, by_arrow.rows) == (1000, 1000)
    assert by_arrow.details["scored_rows"] == 1000
    for night, table in zip((NIGHT, next_night), tables, strict=True):
        again = predictions(scored, pipeline, night=night)
        assert again.schema == table.schema
        assert again.select(list(VALUES)).equals(table.select(list(VALUES)))
        assert set(again["run_id"].to_pylist()) == {"two"}


def test_a_row_says_where_it_came_from(scored: Settings, pipeline: Pipeline) -> None:
    result = score(scored, pipeline, [NIGHT], run_id="the run", engine="arrow")
    rows = predictions(scored, pipeline)
    assert rows.num_rows == 900
    assert len(set(rows["scored_at"].to_pylist())) == 1
    assert set(rows["run_id"].to_pylist()) == {"the run"}
    assert set(rows["model_version"].to_pylist()) == {1}
    assert set(rows["feature_version"].to_pylist()) == {2}
    for row in rows.to_pylist():
        expected = "low" if row["probability"] < 0.3 else "medium" if row["probability"] < 0.7 else "high"
        assert row["band"] == expected
    record = last_record(scored, "score", "demo", NIGHT)
    assert record is not None
    assert (record.rows, record.delta_version, record.run_id) == (900, result.delta_version, "the run")
    assert result.details["plan"]["runtime"] == "onnx"


def test_the_same_inputs_are_not_scored_twice(scored: Settings, pipeline: Pipeline) -> None:
    first = score(scored, pipeline, [NIGHT], run_id="1", engine="arrow")
    again = score(scored, pipeline, [NIGHT], run_id="2", engine="arrow")
    assert (first.skipped, again.skipped) == (False, True)
    assert again.delta_version == first.delta_version
    assert again.rows == 900


def test_another_model_scores_every_row_again_and_the_feed_tells(scored: Settings, pipeline: Pipeline) -> None:
    first = score(scored, pipeline, [NIGHT], engine="arrow")
    register_model(scored, pipeline, seed=1)
    again = score(scored, pipeline, [NIGHT], engine="arrow")
    assert again.details["scored_rows"] == 900
    assert set(predictions(scored, pipeline)["model_version"].to_pylist()) == {2}
    feed = pa.table(
        DeltaTable(scored.table_uri(pipeline.prediction_table)).load_cdf(starting_version=first.delta_version + 1)
    )
    kinds = feed["_change_type"].to_pylist()
    assert (kinds.count("delete"), kinds.count("insert")) == (900, 900)


def test_many_nights_share_a_commit_and_are_entered_one_by_one(settings: Settings, pipeline: Pipeline) -> None:
    nights = [NIGHT + timedelta(days=i) for i in range(3)]
    for i, night in enumerate(nights):
        write_features(settings, pipeline, parts(1, 20 + i, night=night), night=night)
    register_model(settings, pipeline)
    result = score(settings, pipeline, nights, engine="arrow")
    assert result.details["rows_by_night"] == {night.isoformat(): 20 + i for i, night in enumerate(nights)}
    versions = {night: last_record(settings, "score", "demo", night) for night in nights}
    assert {record.delta_version for record in versions.values() if record} == {result.delta_version}
    assert score(settings, pipeline, [nights[1]], engine="arrow").skipped


def test_rebuilt_features_are_scored_again(scored: Settings, pipeline: Pipeline) -> None:
    score(scored, pipeline, [NIGHT], engine="arrow")
    version = write_features(scored, pipeline, parts(2, seed=50))
    result = score(scored, pipeline, [NIGHT], engine="arrow")
    assert (result.skipped, result.rows) == (False, 600)
    assert set(predictions(scored, pipeline)["feature_version"].to_pylist()) == {version}


def test_a_lost_prediction_table_is_made_again(scored: Settings, pipeline: Pipeline) -> None:
    score(scored, pipeline, [NIGHT], engine="arrow")
    shutil.rmtree(scored.table_uri(pipeline.prediction_table))
    assert score(scored, pipeline, [NIGHT], engine="arrow").details["scored_rows"] == 900


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"maximum": 0.5}, r"probability up to 0\.\d+, above its maximum 0.5"),
        ({"minimum": 0.5}, r"probability down to 0\.\d+, below its minimum 0.5"),
    ],
)
def test_an_output_out_of_range_never_becomes_visible(
    scored: Settings, pipeline: Pipeline, change: dict[str, float], words: str
) -> None:
    before = score(scored, pipeline, [NIGHT], engine="arrow")
    register_model(scored, pipeline, seed=1)
    with pytest.raises(CheckError, match=words):
        score(scored, with_output(pipeline, **change), [NIGHT], engine="arrow")
    assert set(predictions(scored, pipeline)["model_version"].to_pylist()) == {1}
    assert score(scored, pipeline, [NIGHT], engine="arrow").delta_version == before.delta_version + 1


def test_an_entity_given_twice_never_becomes_visible(settings: Settings, pipeline: Pipeline) -> None:
    write_features(settings, pipeline, [*parts(1), parts(1)[0].slice(0, 7)])
    register_model(settings, pipeline)
    with pytest.raises(CheckError, match="307 rows with 300 different keys"):
        score(settings, pipeline, [NIGHT], engine="arrow")
    with pytest.raises(NotFoundError):
        predictions_of(settings, pipeline)


def test_a_prediction_that_is_not_a_number_never_becomes_visible(
    settings: Settings, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = parts(1)[0]
    broken = table.set_column(3, "f1", pa.array([float("inf")] * 5 + [0.0] * 295, pa.float32()))
    broken = broken.set_column(4, "f2", pa.array([float("-inf")] * 5 + [0.0] * 295, pa.float32()))
    write_features(settings, pipeline, [broken])
    register_model(settings, pipeline)
    with pytest.raises(CheckError, match=r"rows without a probability"):
        score(settings, pipeline, [NIGHT], engine="arrow")


def predictions_of(settings: Settings, pipeline: Pipeline) -> pa.Table:
    from forecache.kit.delta.tables import open_table

    return open_table(settings, pipeline.prediction_table).to_pyarrow_table()


def test_a_night_without_features_an_empty_one_and_no_champion_each_say_so(
    settings: Settings, pipeline: Pipeline
) -> None:
    write_features(settings, pipeline, [parts(1)[0].slice(0, 0)])
    with pytest.raises(NotFoundError, match="no champion yet"):
        score(settings, pipeline, [NIGHT], engine="arrow")
    register_model(settings, pipeline)
    with pytest.raises(InputError, match="no entity on 2024-06-30"):
        score(settings, pipeline, [NIGHT], engine="arrow")
    with pytest.raises(NotFoundError, match="has no features for as-of date 2024-01-05"):
        score(settings, pipeline, [date(2024, 1, 5)], engine="arrow")


def test_a_model_of_other_features_is_refused(scored: Settings, pipeline: Pipeline) -> None:
    register_model(scored, dataclasses.replace(make_pipeline(num_features=5)))
    with pytest.raises(InputError, match="takes the column 'f4', which is not a feature"):
        score(scored, pipeline, [NIGHT], engine="arrow")


def test_nights_that_are_current_are_not_looked_up_one_by_one(
    scored: Settings, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = [NIGHT + timedelta(days=i) for i in range(4)]
    for night in nights[1:]:
        write_features(scored, pipeline, parts(1, 20, night=night), night=night)
    score(scored, pipeline, nights, engine="arrow")
    opened: list[str] = []

    class Counted(DeltaTable):
        def __init__(self, uri: str, version: int | None = None, **options: Any) -> None:
            opened.extend([uri] if version is None else [])  # each night's features have a version of their own
            super().__init__(uri, version=version, **options)

    monkeypatch.setattr("deltalake.DeltaTable", Counted)
    for some in (nights[:1], nights):
        assert score(scored, pipeline, some, engine="arrow").skipped
        opened.append("run")
    first, later = "\n".join(opened).split("run")[:2]
    assert len(first.split()) == len(later.split()) > 0


def test_a_new_segment_is_a_new_column(scored: Settings, pipeline: Pipeline) -> None:
    score(scored, pipeline, [NIGHT], engine="arrow")
    half = dataclasses.replace(pipeline.segments[0], name="half", bounds=(0.5,), labels=("lower", "upper"))
    more = dataclasses.replace(pipeline, segments=(*pipeline.segments, half))
    score(scored, more, [NIGHT], engine="arrow")
    counted = query(scored, "select half, count(*) as n from predictions_demo group by half order by half").to_pylist()
    assert {row["half"] for row in counted} <= {"lower", "upper"}
    assert sum(row["n"] for row in counted) == 900


class Stop(Exception):
    pass


def stop_at_a_shard(message: str, share: float | None = None) -> None:
    if " shards, " in message:
        raise Stop


def test_a_run_that_was_stopped_is_taken_up_at_the_missing_shards(
    scored: Settings, pipeline: Pipeline, small_shards: None
) -> None:
    with pytest.raises(Stop):
        score(scored, pipeline, [NIGHT], run_id="first", engine="arrow", progress=stop_at_a_shard)
    with pytest.raises(NotFoundError):
        predictions_of(scored, pipeline)
    result = score(scored, pipeline, [NIGHT], run_id="second", engine="arrow")
    rows = predictions(scored, pipeline)
    assert rows.num_rows == 900
    assert result.details["scored_rows"] in (0, 300, 600)
    assert rows["run_id"].to_pylist().count("second") == result.details["scored_rows"]


def no_commit(*given: object, **named: object) -> int:
    raise Stop


@pytest.mark.slow
def test_one_engine_takes_up_the_shards_of_the_other(
    spark: "SparkSession", scored: Settings, pipeline: Pipeline, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(committing, "commit_nights", no_commit)
        with pytest.raises(Stop):
            score(scored, pipeline, [NIGHT], run_id="spark")
    result = score(scored, pipeline, [NIGHT], run_id="arrow", engine="arrow")
    assert result.details["scored_rows"] == 0
    assert set(predictions(scored, pipeline)["run_id"].to_pylist()) == {"spark"}


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("spark", "arrow"), ("arrow", "spark")])
def test_the_parts_of_a_file_that_are_there_are_kept_and_its_other_rows_scored(
    spark: "SparkSession",
    scored: Settings,
    pipeline: Pipeline,
    small_shards: None,
    monkeypatch: pytest.MonkeyPatch,
    first: Engine,
    second: Engine,
) -> None:
    monkeypatch.setattr(job, "PART_ROWS", 100)
    scored = load_settings(home=scored.home, scoring_batch_rows=100)
    score(scored, pipeline, [NIGHT], engine="arrow")
    expected = values(predictions(scored, pipeline))
    shutil.rmtree(scored.table_uri(pipeline.prediction_table))
    with monkeypatch.context() as patched:
        patched.setattr(committing, "commit_nights", no_commit)
        with pytest.raises(Stop):
            score(scored, pipeline, [NIGHT], run_id="first", engine=first)
    shards = sorted({path.parent for path in _staged(scored, pipeline)})
    # Killed in the last part of one file, in the second of another, which the disk has half of, and before the third.
    by_shard = [sorted(shard.glob("part-*.parquet"), key=lambda path: path.name.split(".c")[1]) for shard in shards]
    assert [len(some) for some in by_shard] == [3, 3, 3]
    by_shard[0][2].unlink()
    by_shard[1][1].write_bytes(by_shard[1][1].read_bytes()[:-20])  # the third part stays, behind a gap
    shutil.rmtree(shards[2])
    result = score(scored, pipeline, [NIGHT], run_id="second", engine=second)
    assert result.details["scored_rows"] == 100 + 200 + 300
    rows = predictions(scored, pipeline)
    assert values(rows) == expected
    assert rows["run_id"].to_pylist().count("first") == 300


@pytest.mark.parametrize("other", ["nothing", "model", "features", "code"])
def test_shards_of_another_model_other_features_or_other_code_are_not_taken_up(
    scored: Settings, pipeline: Pipeline, small_shards: None, other: str
) -> None:
    with pytest.raises(Stop):
        score(scored, pipeline, [NIGHT], engine="arrow", progress=stop_at_a_shard)
    if other == "model":
        register_model(scored, pipeline, seed=1)
    if other == "features":
        write_features(scored, pipeline, parts(3, seed=50))
    settings = scored.model_copy(update={"code_version": "another"}) if other == "code" else scored
    result = score(settings, pipeline, [NIGHT], engine="arrow")
    assert (result.details["scored_rows"] < 900) == (other == "nothing")


def test_a_damaged_or_half_shard_is_scored_again(scored: Settings, pipeline: Pipeline, small_shards: None) -> None:
    with pytest.raises(Stop):
        score(scored, pipeline, [NIGHT], engine="arrow", progress=stop_at_a_shard)
    for file in _staged(scored, pipeline):
        file.write_bytes(file.read_bytes()[:-20])
    score(scored, pipeline, [NIGHT], engine="arrow")
    assert predictions(scored, pipeline).num_rows == 900


def test_a_night_is_planned_from_a_calibration_and_the_next_from_the_night_before(
    scored: Settings, pipeline: Pipeline
) -> None:
    priced = load_settings(home=scored.home, prices={"cpu": (3.6, 0.36)})
    told: list[str] = []
    first = score(priced, pipeline, [NIGHT], engine="arrow", progress=lambda text, share=None: told.append(text))
    assert first.details["batch"]["batch_source"] == "calibrated"
    assert first.details["predicted"]["basis"] == "calibration"
    assert told[0] == "scoring demo by the engine arrow: it is asked for"
    assert told[1].startswith("plan: 900 rows at about ")
    actual = first.details["actual"]
    assert actual["rows"] == 900
    assert actual["price_on_demand"] == pytest.approx(actual["core_s"] / 1000, abs=1e-8)
    assert 50 << 20 < actual["worker_bytes"] < 8 << 30
    record = last_record(priced, "score", "demo", NIGHT)
    assert record is not None
    assert record.details["run"] == actual
    cost = record.details["cost"]
    assert cost["core_s"] > 0
    assert cost["price_on_demand"] == pytest.approx(cost["core_s"] / 1000, abs=1e-8)
    next_night = NIGHT + timedelta(days=1)
    write_features(scored, pipeline, parts(3, night=next_night), night=next_night)
    second = score(priced, pipeline, [next_night], engine="arrow")
    assert second.details["batch"]["batch_source"] == "kept"
    assert second.details["predicted"]["basis"] == "1 earlier night"
    assert second.details["predicted"]["rows_per_second"] == pytest.approx(actual["rows_per_second"], rel=0.01)
    assert second.details["predicted"]["worker_bytes"] == actual["worker_bytes"]


def test_a_larger_sample_another_memory_and_another_model_are_calibrated_again(
    scored: Settings, pipeline: Pipeline
) -> None:
    def source(settings: Settings) -> str:
        text: str = score(settings, pipeline, [NIGHT], engine="arrow").details["batch"]["batch_source"]
        return text

    assert source(scored) == "calibrated"
    register_model(scored, pipeline, seed=1)
    assert source(scored) == "calibrated"
    write_features(scored, pipeline, parts(1, 3000))
    assert source(scored) == "calibrated"
    write_features(scored, pipeline, parts(1, 5000))
    assert source(scored) == "kept"
    write_features(scored, pipeline, parts(1, 5000, seed=2))
    assert source(load_settings(home=scored.home, scoring_worker_memory_mb=64)) == "calibrated"


def test_rows_too_wide_for_the_memory_are_scored_in_smaller_batches(
    scored: Settings, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecache.scoring import batch_size as calibration

    write_features(scored, pipeline, parts(1, 5000))
    monkeypatch.setattr(calibration, "_memory", lambda settings: 8_000)
    batch = score(scored, pipeline, [NIGHT], engine="arrow").details["batch"]
    assert batch["batch_rows"] < 300
    assert batch["batch_bytes"] <= 8_000


@pytest.mark.slow
def test_the_table_does_not_depend_on_the_batch(spark: "SparkSession", scored: Settings, pipeline: Pipeline) -> None:
    tables = []
    for number, (engine, rows) in enumerate([("arrow", 0), ("arrow", 1), ("arrow", 97), ("spark", 7), ("spark", 500)]):
        again = with_output(pipeline, maximum=2.0 + number)
        settings = load_settings(home=scored.home, scoring_batch_rows=rows)
        result = score(settings, again, [NIGHT], engine=engine)  # type: ignore[arg-type]
        assert result.details["batch"]["batch_source"] == ("set" if rows else "calibrated")
        tables.append(predictions(scored, pipeline).select(list(VALUES)))
    assert all(table.equals(tables[0]) for table in tables)


def test_the_engine_without_a_jvm_tells_its_rows_while_a_shard_is_scored(
    settings: Settings, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecache.scoring.tasks import engines, task

    monkeypatch.setattr(engines, "REPORT_EVERY_S", 0.005)
    slow_down(monkeypatch, task)
    write_features(settings, pipeline, parts(1, 30_000))
    register_model(settings, pipeline)
    shares = moves(load_settings(home=settings.home, scoring_batch_rows=500), pipeline, None, "arrow")
    assert len([share for share in shares if 0 < share < 1]) > 5


@pytest.mark.slow
def test_what_a_worker_of_spark_refuses_is_told_as_it_is_without_a_jvm(
    spark: "SparkSession", settings: Settings, pipeline: Pipeline
) -> None:
    table = parts(1)[0]
    write_features(settings, pipeline, [table.set_column(3, "f1", pa.array(["many"] * 300))])
    register_model(settings, pipeline)
    told = []
    engines: tuple[Engine, ...] = ("arrow", "spark")
    for engine in engines:
        with pytest.raises(InputError, match="The column f1 has the type string, and the model takes") as raised:
            score(load_settings(home=settings.home, scoring_batch_rows=100), pipeline, [NIGHT], engine=engine)
        told.append(str(raised.value))
    assert told[0] == told[1]
    with pytest.raises(NotFoundError):
        predictions_of(settings, pipeline)


@pytest.mark.slow
def test_spark_tells_its_shards_while_it_runs(
    spark: "SparkSession", settings: Settings, pipeline: Pipeline, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecache.scoring.tasks import engines as spark_engine

    monkeypatch.setattr(spark_engine, "REPORT_EVERY_S", 0.02)
    monkeypatch.setattr(spark_engine, "ROWS_A_SPARK_TASK", 1000)
    write_features(settings, pipeline, parts(40, 2000))
    register_model(settings, pipeline)
    shares = moves(settings, pipeline, spark, "spark")
    assert len({share for share in shares if 0 < share < 1}) > 3


def slow_down(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    real = module.score_values

    def slowly(*given: Any) -> Any:
        time.sleep(0.005)
        return real(*given)

    monkeypatch.setattr(module, "score_values", slowly)


def moves(settings: Settings, pipeline: Pipeline, spark: Any, engine: Any) -> list[float]:
    """The shares that a run told beside shards, rows per second and time left, in order."""
    told: list[tuple[str, float | None]] = []
    score(settings, pipeline, [NIGHT], engine=engine, progress=lambda text, share=None: told.append((text, share)))
    shares = [share for text, share in told if " shards, " in text and " rows/s, " in text and share is not None]
    assert all(re.search(r"\d+ of \d+ shards, [\d,]+ rows/s, \d+ (s|min) left$", t) for t, _ in told if " shards" in t)
    assert shares == sorted(shares)
    return shares


def _staged(settings: Settings, pipeline: Pipeline) -> Sequence[Path]:
    return sorted(
        path for path in Path(settings.table_uri(pipeline.prediction_table)).rglob("part-*.parquet") if path.is_file()
    )
