"""Every kind of output in one prediction table: both engines, carried forward, published, read, queried."""

import dataclasses
import json
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from outputs_project.pipelines.kinds import by_entity
from outputs_project.pipelines.rules import WIDTH, every
from scoring_support import NIGHT, predictions, write_features

from forecache.base.errors import CheckError
from forecache.base.settings import Settings, load_settings
from forecache.declare import Classes, FunctionModel, Output, Pipeline, Vector
from forecache.lake.query import query
from forecache.lake.training_set import as_of_dates, split_column
from forecache.plugins.challengers.shadow import compare
from forecache.plugins.drift.prediction_drift import prediction_drift
from forecache.plugins.protocols.feast import answer_request as feast
from forecache.scoring.run import score
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import open_store, parse_key, publish

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow
STAMPS = ["scored_at", "run_id"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", project="outputs_project", spark_master="local[2]")


def features(rows: int, *, seed: int = 0, night: date = NIGHT, first: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    values = {
        name: pa.array(rng.standard_normal(rows, dtype=np.float32), mask=rng.random(rows) < 0.02) for name in "ab"
    }
    keys = pa.array([f"u{i:06d}" for i in range(first, first + rows)])
    return pa.table({"user_id": keys, "as_of": pa.array([night] * rows, pa.date32()), **values})


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_engines_give_the_same_bits_for_every_kind(spark: "SparkSession", settings: Settings, seed: int) -> None:
    rows = 1 + 1700 * seed
    write_features(
        settings, every, [features(rows, seed=seed), features(3, seed=9, first=9000)] if seed else [features(rows)]
    )
    found = []
    for engine in ("arrow", "spark"):
        score(settings, every, [NIGHT], engine=engine, rebuild=True)  # type: ignore[arg-type]
        found.append(predictions(settings, every).drop_columns(STAMPS).sort_by("user_id"))
    assert found[0].equals(found[1])


def test_the_table_has_the_declared_types_and_values(settings: Settings) -> None:
    given = features(500)
    write_features(settings, every, [given])
    score(settings, every, [NIGHT], engine="arrow")
    schema = {
        field.name: str(field.type) for field in DeltaTable(settings.table_uri(every.prediction_table)).schema().fields
    }
    assert {name: schema[name] for name in ("score", "plan", "spend_q97_5", "note", "likes")} == {
        "score": 'PrimitiveType("double")',
        "plan": 'PrimitiveType("string")',
        "spend_q97_5": 'PrimitiveType("double")',
        "note": 'PrimitiveType("string")',
        "likes": 'PrimitiveType("boolean")',
    }
    rows = predictions(settings, every)
    a, b = (np.nan_to_num(given[name].to_numpy(zero_copy_only=False)) for name in "ab")
    assert rows["likes"].to_pylist() == (a > b).tolist()
    assert rows["best"].to_pylist() == np.where(a > b, "left", "right").tolist()
    low, middle, high = (rows[f"spend_q{level}"].to_numpy() for level in ("5", "50", "97_5"))
    assert (np.sort(np.column_stack([a, b, (a + b) / 2]), axis=1) == np.column_stack([low, middle, high])).all()
    for shares, best in zip(rows["plan_probabilities"].to_pylist(), rows["plan"].to_pylist(), strict=True):
        assert len(shares) == 2
        assert shares[0]["class"] == best
        assert shares[0]["probability"] >= shares[1]["probability"]
    assert {len(vector) for vector in rows["embedding"].to_pylist()} == {WIDTH}
    asked = "select plan, count(*) as n, max(items[1].score) as best from predictions_every group by plan"
    assert sum(row["n"] for row in query(settings, asked).to_pylist()) == 500
    drift = prediction_drift(settings, every, NIGHT)
    assert drift.output == "score"


def test_what_is_carried_forward_and_published_is_what_a_full_run_gives(settings: Settings) -> None:
    first = features(4000)
    write_features(settings, every, [first])
    score(settings, every, [NIGHT], engine="arrow")
    publish(settings, every, night=NIGHT)
    other = first.set_column(2, "a", pa.array([1.5, *first["a"].to_pylist()[1:3999], -9.0], pa.float32()))
    write_features(settings, every, [other])
    done = score(settings, every, [NIGHT], engine="arrow", mode="incremental")
    assert done.details["carried_rows"] == 3998
    carried = predictions(settings, every).drop_columns(STAMPS + ["feature_version"])
    publish(settings, every, night=NIGHT)
    score(settings, every, [NIGHT], engine="arrow", rebuild=True)
    assert carried.equals(predictions(settings, every).drop_columns(STAMPS + ["feature_version"]))
    with open_store(settings, "every").snapshot() as snapshot:
        for row in carried.slice(0, 3).to_pylist():
            value = answer(snapshot, row["user_id"])
            for name in every.output_columns:
                assert value[name] == (pytest.approx(row[name]) if name == "embedding" else row[name])


def answer(snapshot: Any, key: str) -> dict[str, Any]:
    found = VersionAnswers(snapshot)
    found.refresh(time.time())
    value: dict[str, Any] = json.loads(found.one(parse_key(snapshot.manifest.key, key)))["value"]
    return value


def no_shares(given: Any) -> Any:
    shares = np.full((len(given["a"]), 2), 0.5)
    shares[given["a"] > 1.5] = np.nan
    return shares


def odds(given: Any) -> Any:
    return np.column_stack([given["a"] * 0 + 2.0, given["a"] * 0 + 1.0])


def strangers(given: Any) -> Any:
    return np.where(np.nan_to_num(given["a"]) > 1.5, "stranger", "a").astype(object)


def holes(given: Any) -> Any:
    return np.column_stack([np.nan_to_num(given["a"]), given["b"]]).astype(np.float32)


def endless(given: Any) -> Any:
    return np.where(given["a"] > 1.5, np.inf, 0.0)


def few(given: Any) -> Any:
    return np.ones((len(given["a"]), 3)) / 3


@pytest.mark.parametrize(
    ("function", "output", "message"),
    [
        (no_shares, Classes("plan", ("a", "b")), r"are wrong: \d+ rows without a plan"),
        (endless, Output("score"), "are wrong: score up to infinity"),
        (odds, Classes("plan", ("a", "b")), "probabilities of 'plan' are 1 to 2 and add up to 3 to 3 in a row"),
        (few, Classes("plan", ("a", "b")), r"values of 'plan' for \d+ rows of 2 values"),
        (strangers, Classes("plan", ("a", "b"), probabilities=0), "the class 'stranger' of 'plan', which is not among"),
        (holes, Vector("embedding", 2), r"returned no 'embedding', or values that are no numbers, for \d+ of"),
    ],
)
def test_what_is_no_prediction_is_refused_and_nothing_is_visible(
    settings: Settings, function: Any, output: Any, message: str
) -> None:
    pipeline = wrong(function, output)
    write_features(settings, pipeline, [features(900)])
    with pytest.raises(CheckError, match=message):
        score(settings, pipeline, [NIGHT], engine="arrow")
    assert not DeltaTable.is_deltatable(settings.table_uri(pipeline.prediction_table))


def wrong(function: Any, output: Any) -> Pipeline:
    return dataclasses.replace(every, model=FunctionModel(function), outputs=(output,), segments=())


def test_of_a_vector_no_drift_is_judged_and_it_says_so(settings: Settings) -> None:
    pipeline = wrong(only_vector, Vector("embedding", 2))
    write_features(settings, pipeline, [features(900)])
    score(settings, pipeline, [NIGHT], engine="arrow")
    report = prediction_drift(settings, pipeline, NIGHT)
    assert report.level == "none"
    assert report.sentence == (f"embedding on {NIGHT} is not judged: no drift is measured of an output of vector.")


def only_vector(given: Any) -> Any:
    return np.nan_to_num(np.column_stack([given["a"], given["b"]])).astype(np.float32)


def test_a_challenger_of_classes_is_compared_by_the_rows_that_change(settings: Settings) -> None:
    pipeline = dataclasses.replace(
        every, model=FunctionModel(two_shares), outputs=(Classes("plan", ("a", "b")),), segments=()
    )
    write_features(settings, pipeline, [features(900)])
    score(settings, pipeline, [NIGHT], engine="arrow")
    rows = predictions(settings, pipeline)
    other = rows.set_column(
        rows.schema.get_field_index("plan"), "plan", pa.array(["a"] * 10 + rows["plan"].to_pylist()[10:])
    )
    write_deltalake(settings.table_uri(pipeline.challenger_table), other, partition_by=["as_of"])
    told = compare(settings, pipeline, NIGHT)
    changed = sum(name != "a" for name in rows["plan"].to_pylist()[:10])
    assert (told["rows"], told["segment_changes"], told["psi"]) == (900, {"plan": changed}, None)
    assert changed > 0


def two_shares(given: Any) -> Any:
    first = 1 / (1 + np.exp(-np.nan_to_num(given["a"].astype(np.float64))))
    return np.column_stack([first, 1 - first])


def test_feast_and_duckdb_give_what_the_table_has_of_every_kind(settings: Settings) -> None:
    write_features(settings, every, [features(40)])
    score(settings, every, [NIGHT], engine="arrow")
    publish(settings, every, night=NIGHT)
    rows = predictions(settings, every).sort_by("user_id")
    keys = [*rows["user_id"].to_pylist(), "nobody"]
    with open_store(settings, "every").snapshot() as snapshot:
        answers = VersionAnswers(snapshot)
        answers.refresh(time.time())
        request = {"feature_service": "every", "entities": {"user_id": keys}}
        _, body, _ = feast(json.dumps(request).encode(), lambda name: answers, max_keys=100)
    found = json.loads(body)
    names = found["metadata"]["feature_names"]
    given = {name: column["values"] for name, column in zip(names, found["results"], strict=True)}
    assert set(names) == {"user_id", *every.output_columns}
    for name in every.output_columns:
        assert given[name][-1] is None
        texts = name in ("items", "plan_probabilities")
        values = [json.loads(value) if texts else value for value in given[name][:-1]]
        if name == "embedding":  # float32 in its shortest decimals
            np.testing.assert_array_equal(np.float32(values), np.float32(rows[name].to_pylist()))
        else:
            assert values == rows[name].to_pylist()
    columns = ", ".join(every.output_columns)
    asked = query(settings, f"select {columns} from predictions_every order by user_id")
    assert asked.to_pylist() == rows.select(every.output_columns).to_pylist()


def test_entities_stay_in_one_split_of_the_declared_size(spark: "SparkSession") -> None:
    from pyspark.sql import functions as F

    dates = as_of_dates(by_entity, by_entity.start.replace(year=by_entity.start.year + 1))
    days = [F.lit(day) for day in dates["train"]]
    users = spark.range(3000).select(
        F.concat(F.lit("u"), "id").alias("user_id"), F.explode(F.array(*days)).alias("as_of")
    )
    rows = users.toDF("user_id", "as_of").select("user_id", split_column(by_entity, dates).alias("split")).toArrow()
    by_user = rows.group_by(["user_id", "split"]).aggregate([([], "count_all")])
    assert len(by_user) == 3000
    assert set(by_user["count_all"].to_pylist()) == {len(days)}
    shares = {name: by_user["split"].to_pylist().count(name) / 3000 for name in ("validation", "test")}
    assert shares == {"validation": pytest.approx(0.2, abs=0.03), "test": pytest.approx(0.3, abs=0.03)}
