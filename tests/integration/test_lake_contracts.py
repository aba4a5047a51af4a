"""What feature and label functions return is checked where the table is built, with pipeline, column and function."""

import dataclasses
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dagster_project.purchases import PURCHASES
from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.declare import Feature, Features, Label, Pipeline, Training, load_pipeline
from forecache.kit.delta.log import open_if_exists
from forecache.kit.delta.tables import table_exists
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ledger import last_record
from forecache.lake.query import query
from forecache.lake.training_set import build_training_set, feature_frame

START = PURCHASES.start
NIGHT = START + timedelta(days=11)
ENTITY = ("customer_id", "as_of")


def counted(events: Any) -> Any:
    from pyspark.sql import functions as F

    return events["purchases"].groupBy(*ENTITY).agg(F.count("*").alias("visits"), F.first("customer_id").alias("name"))


def bought(entities: Any, events: Any, how: str) -> Any:
    """Whether anything was bought; `how` says in which way the contract is kept or broken."""
    from pyspark.sql import functions as F

    later = events["purchases"].groupBy(*ENTITY).agg(F.sum("amount").alias("bought"))
    if how == "left out":  # customers who bought nothing are no part of the training set
        return later.select(*ENTITY, F.lit(1.0).alias("bought"))
    labelled = entities.join(later, list(ENTITY), "left")
    if how == "twice":
        return labelled.select(*ENTITY, F.lit(1).alias("bought")).crossJoin(entities.sparkSession.range(2)).drop("id")
    value = {"null": F.col("bought"), "text": F.lit("yes"), "share": F.lit(0.5), "whole": F.lit(1)}[how]
    return labelled.select(*ENTITY, value.alias("bought"))


def declared(settings: Settings, how: str) -> Pipeline:
    churn = load_pipeline(settings, "churn")
    kind = "regression" if how == "null" else "binary"
    gate = dataclasses.replace(churn.gate, metric="mae", floors={}) if how == "null" else churn.gate
    gate = dataclasses.replace(gate, baseline=dataclasses.replace(gate.baseline, feature="visits"))
    return dataclasses.replace(
        churn,
        sources=(PURCHASES,),
        features=Features(compute=counted, columns=(Feature("visits"),)),
        label=Label("bought", kind, 3, partial(bought, how=how)),  # type: ignore[arg-type]
        training=Training(num_as_of=1),
        gate=gate if kind == "regression" else dataclasses.replace(gate, metric="roc_auc", floors={}),
        retraining=None,
    )


@pytest.fixture(scope="module")
def lake(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Ann buys every day, Bob on the first only."""
    from forecache.base.settings import load_settings

    settings = load_settings(home=tmp_path_factory.mktemp("contracts"), spark_master="local[2]")
    folder = Path(settings.landing_uri) / PURCHASES.name
    folder.mkdir(parents=True)
    for offset in range(12):
        day = START + timedelta(days=offset)
        rows = [f"{customer},{day},1,5\n" for customer in ("00001", "00002") if offset == 0 or customer == "00001"]
        (folder / f"{day}.csv").write_text("customer_id,date,quantity,amount\n" + "".join(rows))
    ingest(settings, PURCHASES)
    return settings


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("null", r"label 'bought' of pipeline 'churn' is None in 3 of 6 rows, first on .* from bought .*leave out"),
        ("text", r"label 'bought' of 'churn' is a string; labels are numbers. Return a number from bought"),
        ("share", r"label 'bought' of pipeline 'churn' is 0\.5 in 6 of 6 rows.* Return 0\.0 or 1\.0 from bought"),
        ("twice", r"pipeline 'churn' has 2 rows for customer_id 0000\d, as_of .* from counted and bought"),
    ],
)
def test_labels_that_break_the_contract_are_refused_when_the_training_set_is_built(
    lake: Settings, spark: Any, how: str, message: str
) -> None:
    before, table = last_record(lake, "training_set", "churn"), open_if_exists(lake, "training_set_churn")
    with pytest.raises(InputError, match=message):
        build_training_set(lake, declared(lake, how), NIGHT)
    assert last_record(lake, "training_set", "churn") == before  # training does not take it
    after = open_if_exists(lake, "training_set_churn")
    assert (after and after.version()) == (table and table.version())  # nor does anybody find it in the table


def test_entities_without_a_label_may_be_left_out(lake: Settings, spark: Any) -> None:
    result = build_training_set(lake, declared(lake, "left out"), NIGHT)
    assert result.rows == 3
    rows = query(lake, "select customer_id, bought from training_set_churn").to_pylist()
    assert rows == [{"customer_id": "00001", "bought": 1.0}] * 3


def test_a_text_as_a_feature_is_named_before_spark_computes_anything(lake: Settings, spark: Any) -> None:
    pipeline = declared(lake, "whole")
    features = dataclasses.replace(pipeline.features, columns=(Feature("visits"), Feature("name")))
    wrong = dataclasses.replace(pipeline, features=features)
    with pytest.raises(InputError, match=r"feature 'name' of 'churn' is a string; features are numbers"):
        feature_frame(spark, lake, wrong, [date(1997, 1, 5)])
    assert not table_exists(lake, wrong.feature_table)
