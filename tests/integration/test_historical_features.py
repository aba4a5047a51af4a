"""Any table of keys and times gets the features that were known then: row for row those of the night that had ended."""

import dataclasses
import random
import shutil
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from joined_sample import FLOWS, OPENED, REGION, SALES, SHOP, land, land_all, people
from pyspark.sql import functions as F

from forecache.base.errors import InputError, NotFoundError
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.declare import Feature, Features, FeatureView, Window
from forecache.kit.delta.tables import table_version
from forecache.lake.features import build_view
from forecache.lake.ingest.ingest import ingest
from forecache.plugins.historical_features.command import collect_rows, find_views
from forecache.plugins.historical_features.historical import historical_features
from forecache.plugins.historical_features.historical_rows import add_known_features

UTC = timezone.utc


def at(day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 1, day, hour, minute, second, tzinfo=UTC)


@pytest.fixture(scope="module")
def lake(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lake in which no view is built."""
    settings = load_settings(home=tmp_path_factory.mktemp("historical") / "home", spark_master="local[2]")
    land_all(settings)
    land(settings, "sales", 3, "shop,amount,day", ["b,4"], name=".more")
    for source in (SALES, FLOWS, OPENED):
        ingest(settings, source)
    return settings


@pytest.fixture
def own_lake(lake: Settings, settings: Settings) -> Settings:
    """The same lake, for views to be built in."""
    shutil.copytree(lake.home_path, settings.home_path)
    return settings


def frame(spark: Any, rows: list[tuple[Any, ...]]) -> Any:
    return spark.createDataFrame(rows, "shop string, region string, event_timestamp timestamp, n int")


def found(result: Any) -> dict[int, tuple[Any, ...]]:
    return {row.n: (row.amount_2d, row.people) for row in result.collect()}


def test_each_row_sees_the_date_that_had_ended(own_lake: Settings, spark: Any) -> None:
    spine = frame(
        spark,
        [
            ("a", "north", at(1, 12), 0),  # before the first night has ended
            ("a", "north", at(2), 1),
            ("a", "north", at(2, 23, 59, 59), 2),
            ("a", "north", at(3), 3),
            ("b", "south", at(4, 9), 4),
            ("c", "north", at(4, 9), 5),
            ("a", "north", None, 6),
            ("a", "north", at(3), 7),
        ],
    )
    build_view(own_lake, REGION, [date(2026, 1, 2)])
    version = table_version(own_lake, REGION.feature_table)
    known = found(historical_features(spark, own_lake, [SHOP, REGION], spine))
    assert known == {
        0: (None, None),
        1: (1.5, 10.0),
        2: (1.5, 10.0),
        3: (3.5, 15.0),
        4: (4.0, None),
        5: (None, 15.0),
        6: (None, None),
        7: (3.5, 15.0),
    }
    assert table_version(own_lake, REGION.feature_table) == version  # what was missing was computed, not written


def test_rows_are_those_of_the_nights_tables_for_random_times(own_lake: Settings, spark: Any) -> None:
    rng = random.Random(4)
    spine = [
        (rng.choice("abc"), rng.choice(["north", "south"]), at(1) + timedelta(seconds=rng.randrange(4 * 86400)), n)
        for n in range(60)
    ]
    nights = [date(2026, 1, number) for number in range(1, 5)]
    tables: dict[str, dict[tuple[str, date], float]] = {}
    for view, value in ((SHOP, "amount_2d"), (REGION, "people")):
        build_view(own_lake, view, nights)
        rows = spark.read.format("delta").load(own_lake.table_uri(view.feature_table)).collect()
        tables[view.name] = {(row[view.key[0]], row.as_of): row[value] for row in rows}
    expected = {}
    for shop, region, time, n in spine:
        night = time.date() - timedelta(days=1)
        expected[n] = (tables["shop"].get((shop, night)), tables["region"].get((region, night)))
    assert found(historical_features(spark, own_lake, [SHOP, REGION], frame(spark, spine))) == expected


def test_windows_have_the_same_rows_without_spark(own_lake: Settings, spark: Any) -> None:
    rng = random.Random(8)
    ended = dataclasses.replace(FLOWS, end=date(2026, 1, 3))
    views = [SHOP, FeatureView("crowd", ("region",), (ended,), windows=(Window("people", "sum", 2, "people"),))]
    build_view(own_lake, SHOP, [date(2026, 1, 2), date(2026, 1, 3)])  # some dates are read, and the others computed
    version = table_version(own_lake, SHOP.feature_table)
    times = [at(1) + timedelta(microseconds=rng.randrange(int(4.5 * 86_400_000_000))) for _ in range(200)]
    kind = pa.timestamp("us", "UTC")
    spine = pa.table(
        {
            "shop": [rng.choice(["a", "b", "c", "z", None]) for _ in times],
            "region": [rng.choice(["north", "south"]) for _ in times],
            "event_timestamp": pa.array([None if rng.random() < 0.2 else time for time in times], kind),
            "n": range(len(times)),
        }
    )
    as_dates = spine.set_column(2, "event_timestamp", spine["event_timestamp"].cast(pa.date32(), safe=False))
    without_zone = spine.set_column(2, "event_timestamp", spine["event_timestamp"].cast(pa.timestamp("ns")))
    for given in (spine, as_dates, without_zone, spine.slice(0, 0)):
        for age in (None, timedelta(hours=7)):
            here = add_known_features(own_lake, views, given, timestamp="event_timestamp", max_age=age)
            frame = spark.createDataFrame(given)
            there = collect_rows(historical_features(spark, own_lake, views, frame, max_age=age)).sort_by("n")
            assert here.select(given.column_names).equals(given)
            assert here.select(["amount_2d", "people"]).equals(there.select(["amount_2d", "people"]))
    assert here.num_rows == 0
    assert table_version(own_lake, SHOP.feature_table) == version
    time = pa.array([at(3)], kind)
    one = pa.table({"shop": ["a"], "region": ["north"], "event_timestamp": time, "n": [0]})
    numbered = one.set_column(0, "shop", pa.array([1]))
    with pytest.raises(InputError, match="has 'shop' as bigint, and the view 'shop' as string"):
        add_known_features(own_lake, views, numbered, timestamp="event_timestamp")
    with pytest.raises(InputError, match="The column 'people' would be twice"):
        add_known_features(own_lake, views, one.append_column("People", one["n"]), timestamp="event_timestamp")


def test_what_was_known_too_long_ago_is_left_out(lake: Settings, spark: Any) -> None:
    spine = frame(spark, [("a", "north", at(3, 5), 0), ("a", "north", at(3, 7), 1)])
    aged = historical_features(spark, lake, [SHOP, REGION], spine, max_age=timedelta(hours=6))
    assert found(aged) == {0: (3.5, 15.0), 1: (None, None)}


def test_tables_that_cannot_be_joined_are_refused(lake: Settings, spark: Any) -> None:
    spine = frame(spark, [("a", "north", at(3), 0)])
    for wrong, message in (
        (spine.drop("region"), "has no column 'region'"),
        (spine.withColumnRenamed("event_timestamp", "t"), "has no column 'event_timestamp'"),
        (spine.withColumn("event_timestamp", spine.shop), "'event_timestamp' of the table .* is a string"),
        (spine.withColumn("people", spine.n), "The column 'people' would be twice"),
        (spine.withColumn("People", spine.n), "The column 'people' would be twice"),
        (spine.withColumn("shop", spine.n), "has 'shop' as int, and the view 'shop' as string. Cast it"),
    ):
        with pytest.raises(InputError, match=message):
            historical_features(spark, lake, [SHOP, REGION], wrong)
    with pytest.raises(InputError, match="2026-01-08 is empty: source 'sales' has no landing file"):
        historical_features(spark, lake, [SHOP], frame(spark, [("a", "north", at(9), 0)]))


def test_other_columns_may_have_any_name_and_no_rows(lake: Settings, spark: Any) -> None:
    spine = frame(spark, [("a", "north", at(3), 0)]).withColumn("a.b `c`", F.lit(5))
    (row,) = historical_features(spark, lake, [SHOP, REGION], spine).collect()
    assert (row["a.b `c`"], row["people"]) == (5, 15.0)
    assert historical_features(spark, lake, [SHOP, REGION], spine.limit(0)).collect() == []


def test_view_that_returns_a_row_twice_is_named_instead_of_doubling_rows(lake: Settings, spark: Any) -> None:
    def twice(events: Mapping[str, Any]) -> Any:
        return people(events).unionAll(people(events))

    view = dataclasses.replace(REGION, name="twice", features=Features(columns=(Feature("people"),), compute=twice))
    found = historical_features(spark, lake, [view], frame(spark, [("a", "north", at(3), 0)]))
    with pytest.raises(InputError, match="The view 'twice' has several rows of the key north on 2026-01-02."):
        collect_rows(found)


def test_command_keeps_order_and_columns_of_files(
    settings: Settings, tmp_path: Path, spark: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    from dagster_project.purchases import PURCHASES

    folder = Path(settings.landing_uri) / PURCHASES.name
    folder.mkdir(parents=True)
    (folder / f"{PURCHASES.start}.csv").write_text(f"customer_id,date,quantity,amount\n00001,{PURCHASES.start},1,9.5\n")
    ingest(settings, PURCHASES)
    spine, out = tmp_path / "asked.csv", tmp_path / "known.parquet"
    spine.write_text("customer_id,asked,note\n00002,1997-01-02 10:00:00,x\n00001,1997-01-02 10:00:00,y\n")
    assert main(["features", "churn", "--spine", str(spine), "--timestamp", "asked", "--out", str(out)]) == 0
    known = pq.read_table(out)
    assert known.column_names[:3] == ["customer_id", "asked", "note"]
    assert known["note"].to_pylist() == ["x", "y"]
    assert known["monetary"].to_pylist() == [None, 9.5]
    assert "2 rows with 21 features" in capsys.readouterr().out
    assert main(["features", "churn", "--spine", str(spine), "--out", str(out)]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "no column 'event_timestamp'. It has customer_id, asked, note; name its time" in said
    again = tmp_path / "again.csv"
    pq.write_table(known.select(["customer_id", "asked"]), tmp_path / "asked.parquet")
    arguments = ["features", "customer", "--spine", str(tmp_path / "asked.parquet"), "--timestamp", "asked"]
    assert main([*arguments, "--out", str(again)]) == 0
    assert pa.csv.read_csv(again)["monetary"].to_pylist() == [None, 9.5]


def test_names_are_those_of_pipelines_or_views(settings: Settings) -> None:
    assert [view.name for view in find_views(settings, ["churn", "customer", "spend"])] == ["customer"]
    with pytest.raises(NotFoundError, match="real-time model or feature view 'custmer'. Did you mean 'customer'"):
        find_views(settings, ["custmer"])
