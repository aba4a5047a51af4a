"""Feature views: computed once for all pipelines that use them, and joined where a pipeline has several."""

import dataclasses
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from joined_sample import FLOWS, OPENED, SALES, SHOP, WITH_REGION, land, land_all

from dagster_project.purchases import PURCHASES
from forecache.base.errors import InputError
from forecache.base.settings import Settings, load_settings
from forecache.declare import Entities, Feature, Features, FeatureView, load_pipelines
from forecache.kit.delta.tables import open_table, table_exists, table_version
from forecache.lake.feature_rows import feature_frame
from forecache.lake.features import build_features, feature_versions, stale_nights
from forecache.lake.ingest.ingest import ingest

NIGHT = date(2026, 1, 2)


def test_second_pipeline_of_a_view_finds_its_table_current(settings: Settings, spark: Any) -> None:
    folder = Path(settings.landing_uri) / PURCHASES.name
    folder.mkdir(parents=True)
    (folder / f"{PURCHASES.start}.csv").write_text(f"customer_id,date,quantity,amount\n00001,{PURCHASES.start},1,9.5\n")
    ingest(settings, PURCHASES)
    churn, spend = load_pipelines(settings).values()
    first = build_features(settings, churn, [PURCHASES.start])
    second = build_features(settings, spend, [PURCHASES.start])
    assert (first.table, first.rows, first.skipped) == ("features_customer", 1, False)
    assert (second.table, second.rows, second.skipped) == ("features_customer", 1, True)
    assert table_version(settings, "features_customer") == first.delta_version
    assert not any(table_exists(settings, f"features_{name}") for name in ("churn", "spend"))
    versions = [feature_versions(settings, pipeline, [PURCHASES.start]) for pipeline in (churn, spend)]
    assert versions[0] == versions[1] == {PURCHASES.start: first.delta_version}
    assert PURCHASES.start + timedelta(days=1) not in versions[0]


@pytest.fixture(scope="module")
def landed(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = load_settings(home=tmp_path_factory.mktemp("views") / "home", spark_master="local[2]")
    land_all(settings)
    for source in (SALES, FLOWS, OPENED):
        ingest(settings, source)
    return settings


@pytest.fixture
def lake(landed: Settings, settings: Settings) -> Settings:
    shutil.copytree(landed.home_path, settings.home_path)
    return settings


def rows(settings: Settings, table: str, night: date) -> dict[str, tuple[float | None, ...]]:
    found = open_table(settings, table).to_pyarrow_table([("as_of", "=", night.isoformat())]).to_pylist()
    return {row.pop("shop"): tuple(value for name, value in sorted(row.items()) if name != "as_of") for row in found}


def test_views_are_joined_to_declared_entities_and_what_a_view_lacks_is_null(lake: Settings, spark: Any) -> None:
    result = build_features(lake, WITH_REGION, [NIGHT])
    assert (result.table, result.subject, result.rows) == ("features_takings", "takings", 3)
    expected = {"a": (3.5, 15.0), "b": (7.0, None), "c": (None, 15.0)}
    assert rows(lake, "features_takings", NIGHT) == expected
    assert build_features(lake, WITH_REGION, [NIGHT]).skipped
    # The same definition for the training set, which reads no feature table.
    frame = feature_frame(spark, lake, WITH_REGION, [NIGHT, NIGHT + timedelta(days=1)]).collect()
    assert {r.shop: (r.amount_2d, r.people) for r in frame if r.as_of == NIGHT} == expected
    assert {r.shop: r.amount_2d for r in frame if r.as_of != NIGHT} == {"a": 2.0, "b": None, "c": None}


def test_entities_are_the_rows_of_the_first_view_of_the_key_where_none_are_declared(lake: Settings, spark: Any) -> None:
    def doubled(events: Any) -> Any:
        return events["sales"].groupBy("shop", "as_of").agg({"amount": "max"}).withColumnRenamed("max(amount)", "most")

    most = FeatureView("most", ("shop",), (SALES,), Features(columns=(Feature("most"),), compute=doubled))
    both = dataclasses.replace(WITH_REGION, features=(SHOP, most), entities=None)
    build_features(lake, both, [NIGHT, NIGHT + timedelta(days=1)])
    assert rows(lake, "features_takings", NIGHT) == {"a": (3.5, 2.0), "b": (7.0, 7.0)}
    assert rows(lake, "features_takings", NIGHT + timedelta(days=1)) == {"a": (2.0, 2.0)}


def test_late_file_of_one_view_makes_the_join_stale_and_only_that_view_is_built_again(
    lake: Settings, spark: Any
) -> None:
    build_features(lake, WITH_REGION, [NIGHT])
    before = {name: table_version(lake, f"features_{name}") for name in ("shop", "region", "takings")}
    land(lake, "flows", 1, "region,people,day", ["south,3"], name=".late")
    ingest(lake, FLOWS)
    assert stale_nights(lake, WITH_REGION) == (NIGHT,)
    assert not build_features(lake, WITH_REGION, [NIGHT]).skipped
    assert rows(lake, "features_takings", NIGHT)["b"] == (7.0, 3.0)
    after = {name: table_version(lake, f"features_{name}") for name in before}
    assert {name for name in after if after[name] > before[name]} == {"region", "takings"}
    assert stale_nights(lake, WITH_REGION) == ()


def test_entities_whose_column_has_another_type_than_the_key_of_a_view_are_refused(lake: Settings, spark: Any) -> None:
    from pyspark.sql import functions as F

    entities = Entities(
        lambda rows: rows["opened"].select("shop", F.lit(5).alias("region"), "as_of"), (OPENED,), columns=("region",)
    )
    pipeline = dataclasses.replace(WITH_REGION, entities=entities)
    with pytest.raises(InputError, match="'takings' have 'region' as int, and the view 'region' as string. Cast it"):
        build_features(lake, pipeline, [NIGHT])
    assert not table_exists(lake, pipeline.feature_table)


def test_entities_that_lack_a_column_are_named(lake: Settings, spark: Any) -> None:
    def forgetful(events: Any) -> Any:
        return events["opened"].select("shop", "as_of")

    wrong = dataclasses.replace(WITH_REGION, entities=Entities(forgetful, (OPENED,), ("region",)))
    with pytest.raises(InputError, match="entities of pipeline 'takings' lack the column 'region'. Return it"):
        build_features(lake, wrong, [NIGHT])
