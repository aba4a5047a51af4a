"""Both engines write the same rows to the bit, and which of them runs is decided by what is declared."""

import dataclasses
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import windows_sample
from deltalake import write_deltalake
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from joined_sample import FLOWS, OPENED, SALES, SHOP, WITH_REGION, land_all
from sql_project.pipelines.orders import CUSTOMER, CUSTOMERS, ORDERS, REGION, REGIONS, orders
from windows_sample import VIEW, days_after

from forecache.base.errors import InputError, SettingsError, UnavailableError
from forecache.base.settings import Settings, load_settings
from forecache.base.spark_hashes import shuffle_partitions, xxhash64
from forecache.declare import (
    AS_OF,
    Baseline,
    EntitySplit,
    EstimatorModel,
    FeatureView,
    Gate,
    Label,
    Output,
    Pipeline,
    Training,
    Window,
)
from forecache.kit.delta.tables import open_table
from forecache.lake import arrow_rows, labelled_rows, training_set
from forecache.lake.arrow_rows import load_table
from forecache.lake.engine import decide_engine, map_in_threads, num_cores
from forecache.lake.feature_rows import view_frame
from forecache.lake.features import build_features, build_view
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ledger import last_records
from forecache.lake.query import scratch_database
from forecache.lake.split_rows import split_batches
from forecache.lake.stored_features import RowBatches
from forecache.lake.training_set import build_training_set, label_frame
from forecache.plugins.drift import monitor
from forecache.plugins.drift.monitor import labelled_predictions

LAST = 9
KINDS: dict[str, tuple[pa.DataType, Any]] = {
    "string": (pa.string(), st.text(max_size=40)),
    "int": (pa.int32(), st.integers(-(1 << 31), (1 << 31) - 1)),
    "bigint": (pa.int64(), st.integers(-(1 << 63), (1 << 63) - 1)),
    "date": (pa.date32(), st.dates(date(1, 1, 1), date(9999, 12, 31))),
    "boolean": (pa.bool_(), st.booleans()),
}


@pytest.mark.slow
@limits(max_examples=8)
@given(data=st.data(), kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3))
def test_keys_have_the_hashes_and_the_partitions_that_spark_gives_them(
    spark: Any, data: st.DataObject, kinds: list[str]
) -> None:
    from pyspark.sql import functions as F

    rows = data.draw(st.lists(st.tuples(*(st.none() | KINDS[kind][1] for kind in kinds)), min_size=1, max_size=60))
    columns = [pa.array(values, KINDS[kind][0]) for values, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    names = [f"c{number}" for number in range(len(kinds))]
    table = pa.table([*columns, pa.array(range(len(rows)))], [*names, "row"])
    frame = spark.createDataFrame(table).withColumn("hash", F.xxhash64(*names)).repartition(8, *names)
    found = sorted(frame.select("row", "hash", F.spark_partition_id().alias("partition")).collect())
    assert [row["hash"] for row in found] == xxhash64(columns).tolist()
    assert [row["partition"] for row in found] == shuffle_partitions(columns, 8).tolist()


def of_engine(settings: Settings, name: str) -> Settings:
    """The settings of a copy of the home, where an engine is asked for."""
    home = settings.home_path.with_name(f"home-{name}")
    shutil.copytree(settings.home_path, home)
    return load_settings(home=home, engine=name, spark_master=settings.spark_master)


def contents(settings: Settings, table: str) -> pa.Table:
    """All rows of a table, in one order, with the types that they are stored in."""
    rows = open_table(settings, table).to_pyarrow_table()
    order = [(name, "ascending") for name in rows.schema.names if not pa.types.is_nested(rows.schema.field(name).type)]
    return rows.select(sorted(rows.schema.names)).sort_by(order)


def assert_same(one: pa.Table, other: pa.Table) -> None:
    """Compare types and bits: NaN is NaN, and zeros have their signs."""
    assert one.schema.equals(other.schema)
    assert one.num_rows == other.num_rows
    for name in one.schema.names:
        assert repr(one[name].to_pylist()) == repr(other[name].to_pylist()), name


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_windows_of_random_rows_are_the_same_tiles_and_features(settings: Settings, spark: Any, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(LAST + 1):
        day = days_after(number)
        windows_sample.land(settings, day, windows_sample.random_rows(rng, day, rng.randint(0, 60)))
    ingest(settings, windows_sample.SALES)
    nights = [days_after(number) for number in (3, 6, LAST)]
    homes = {name: of_engine(settings, name) for name in ("spark", "arrow")}
    for name, home in homes.items():
        assert build_view(home, VIEW, nights).details["built"] == [night.isoformat() for night in nights]
        details = last_records(home, "features", VIEW.name)[nights[0]].details
        assert (details["engine"], details["engine_reason"]) == (name, "it is asked for")
    for table in (VIEW.tile_table, VIEW.feature_table):
        assert_same(contents(homes["spark"], table), contents(homes["arrow"], table))
    # What one engine has built is current for the other.
    assert build_view(homes["spark"].model_copy(update={"engine": "arrow"}), VIEW, nights).skipped


@pytest.fixture
def shops(settings: Settings, spark: Any) -> Settings:
    land_all(settings)
    for source in (SALES, FLOWS, OPENED):
        ingest(settings, source)
    return settings


def as_rows(frame: Any) -> RowBatches:
    table = frame.toArrow()
    return RowBatches(table.schema, table.to_batches())


def test_views_are_joined_to_entities_the_same(shops: Settings, spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = [date(2026, 1, number) for number in (1, 2, 3)]
    people = FeatureView("region", ("region",), (FLOWS,), windows=(Window("people", "sum", 9, "people"),))
    pipeline = dataclasses.replace(WITH_REGION, features=(SHOP, people))

    def entities(settings: Settings, pipeline: Pipeline, nights: Sequence[date], **_: Any) -> RowBatches:
        opened = spark.read.format("delta").load(settings.table_uri("raw_opened")).select("shop", "region").distinct()
        of_nights = spark.createDataFrame([(night,) for night in nights], "as_of date")
        return as_rows(opened.crossJoin(of_nights).where("as_of >= date'2026-01-01'"))

    homes = {name: of_engine(shops, name) for name in ("auto", "arrow")}
    build_features(homes["auto"], pipeline, nights)
    assert last_records(homes["auto"], "features", "takings")[nights[0]].details["engine"] == "spark"
    with pytest.raises(SettingsError, match=r"The engine 'arrow' is asked for, and the function shops needs Spark\."):
        build_features(homes["arrow"], pipeline, nights)
    monkeypatch.setattr(arrow_rows, "entity_rows", entities)
    monkeypatch.setattr("forecache.lake.features.find_spark_functions", lambda *_: [])
    build_features(homes["arrow"], pipeline, nights)
    by_both = [contents(home, pipeline.feature_table) for home in homes.values()]
    assert by_both[0].num_rows == 9
    assert_same(*by_both)

    numbers = pa.table({"shop": [1], "region": ["a"], "as_of": [nights[0]]})
    numbered = RowBatches(numbers.schema, numbers.to_batches())
    monkeypatch.setattr(arrow_rows, "entity_rows", lambda *_, **__: numbered)
    with pytest.raises(InputError, match=r"of pipeline 'takings' have 'shop' as bigint, and the view 'shop' as string"):
        build_features(homes["arrow"], pipeline, nights, rebuild=True)


def amount_after(entities: Any, events: Any) -> Any:
    from pyspark.sql import functions as F

    spent = events["sales"].groupBy("shop", "till", "as_of").agg(F.count("*").cast("double").alias("sold"))
    known = entities.join(spent, ["shop", "till", "as_of"], "left")
    return known.select("shop", "till", "as_of", F.coalesce("sold", F.lit(0.0)).alias("sold"))


def guess(features: Any) -> Any:
    return features["rows_3d"]


def trained(split: EntitySplit | None) -> Pipeline:
    return Pipeline(
        name="tills",
        key=("shop", "till"),
        features=(VIEW,),
        label=Label("sold", horizon_days=1, compute=amount_after, kind="regression"),
        training=Training(num_as_of=4, every_days=1, split=split),
        model=EstimatorModel(build=guess),
        gate=Gate("mae", floors={"mae": 1e6}, baseline=Baseline("rows_3d")),
        outputs=(Output("sold"),),
    )


@pytest.mark.slow
@pytest.mark.parametrize("split", [None, EntitySplit(validation=0.3, test=0.3)])
def test_training_sets_have_the_same_rows_in_the_same_order(
    settings: Settings, spark: Any, split: EntitySplit | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    pipeline = trained(split)
    for number in range(LAST + 1):
        day = days_after(number)
        lines = windows_sample.random_rows(rng, day, 40)
        windows_sample.land(settings, day, [f"{rng.choice('αβγδε')}{line}" for line in lines])
    ingest(settings, windows_sample.SALES)
    homes = {name: of_engine(settings, name) for name in ("spark", "arrow")}
    night = days_after(LAST)

    def labels(settings: Settings, pipeline: Pipeline, nights: Sequence[date], **_: Any) -> RowBatches:
        entities = view_frame(spark, settings, VIEW, nights).select("shop", "till", "as_of")
        return as_rows(label_frame(spark, settings, pipeline, entities, nights))

    monkeypatch.setattr(labelled_rows, "label_rows", labels)
    monkeypatch.setattr(training_set, "find_spark_functions", lambda *_: [])
    built = {name: build_training_set(home, pipeline, night) for name, home in homes.items()}
    own = {"engine": "arrow", "cost": built["arrow"].details["cost"]}
    assert built["arrow"].details == built["spark"].details | own
    assert built["arrow"].rows > 40
    assert_same_training_sets(homes, {name: each.delta_version for name, each in built.items()}, pipeline)


def assert_same_training_sets(homes: dict[str, Settings], versions: dict[str, int | None], pipeline: Pipeline) -> None:
    """Compare the rows of each split in the order in which a model is trained on them."""
    for split in ("train", "validation", "test"):
        read = []
        for name, home in homes.items():
            columns = [field.name for field in open_table(home, pipeline.training_table).schema().fields]
            version = versions[name]
            assert version is not None
            batches = split_batches(home, pipeline.training_table, version=version, split=split, columns=columns)
            read.append(pa.Table.from_batches(batches))
        assert_same(*read)


def land_orders(settings: Settings, rng: random.Random, days: Sequence[date]) -> None:
    """Orders with times at the ends of days, ties and nulls; customers who move; regions."""
    lines: dict[str, dict[date, list[str]]] = {"orders": {}, "customers": {}, "regions": {}}
    for day in days:
        times = [f"{day}T{time}Z" for time in ("00:00:00", "12:00:00", "23:59:59.999999")]
        amounts = ["", "0.1", "0.2", "-0.0", f"{rng.uniform(0, 1e6)!r}"]
        lines["orders"][day] = [
            f"c{rng.randrange(40)},{rng.choice(times)},{rng.choice(amounts)},{rng.choice(['', '1', '7'])}"
            for _ in range(150)
        ]
        lines["customers"][day] = [
            f"c{n},{rng.choice(['north', 'south', 'west'])},2025-02-{n % 28 + 1:02}" for n in range(45)
        ]
    lines["regions"][days[0]] = ["north,3", "south,-2", "east,5"]
    heads = {"orders": "customer,at,amount,pieces", "customers": "customer,region,since", "regions": "region,weight"}
    for source, by_day in lines.items():
        folder = Path(settings.landing_uri) / source
        folder.mkdir(parents=True)
        for day, rows in by_day.items():
            (folder / f"{day}.csv").write_text("\n".join([heads[source], *rows, ""]))


@pytest.mark.slow
def test_a_pipeline_in_sql_has_the_same_features_training_set_and_labelled_predictions(
    settings: Settings, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(6)]
    land_orders(settings, random.Random(3), days)
    for source in (ORDERS, CUSTOMERS, REGIONS):
        assert ingest(settings, source).details["quarantined_rows"] == 0
    homes = {name: of_engine(settings, name) for name in ("spark", "arrow")}
    pipeline, built = dataclasses.replace(orders, training=Training(num_as_of=2, every_days=1)), {}
    for name, home in homes.items():
        build_features(home, pipeline, days[1:4])
        built[name] = build_training_set(home, pipeline, days[-1])
    own = {"engine": "arrow", "cost": built["arrow"].details["cost"]}
    assert built["arrow"].details == built["spark"].details | own
    for table in (CUSTOMER.feature_table, REGION.feature_table, pipeline.feature_table):
        by_both = [contents(home, table) for home in homes.values()]
        assert by_both[0].num_rows > 8
        assert_same(*by_both)
    assert_same_training_sets(homes, {name: each.delta_version for name, each in built.items()}, pipeline)

    scores = [number % 7 / 3 for number in range(45)]
    made = {"customer": [f"c{n}" for n in range(45)], AS_OF: [days[2]] * 45, "expected_spend": scores}
    monkeypatch.setattr(monitor, "_MOST_ROWS", 20)
    measured = []
    for home in homes.values():
        write_deltalake(home.table_uri(pipeline.prediction_table), pa.table(made), partition_by=[AS_OF])
        ((_, values),) = labelled_predictions(home, pipeline, [days[2]]).items()
        measured.append(values)
    assert 5 < len(measured[0][0]) < 30
    for one, other in zip(*measured, strict=True):
        assert np.array_equal(one, other) if one is not None else other is None


@pytest.fixture
def without_pyspark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)


ON_A_CLUSTER = {"spark_master": "spark://host:7077"}


@pytest.mark.parametrize(
    ("more", "asked", "engine", "reason"),
    [
        ({}, {"rows": 7}, "arrow", "nothing needs Spark for 7 rows"),
        ({}, {"needs_spark": ["the function total"]}, "spark", "the function total needs it"),
        ({}, {"rows": 10**9}, "arrow", "nothing needs Spark for 1,000,000,000 rows"),
        (
            {"spark_master": "spark://host:7077"},
            {"rows": 10**9},
            "spark",
            "1,000,000,000 rows are more than 20,000,000",
        ),
        ({}, {"rows": 10**9, "is_serial": True}, "spark", "1,000,000,000 rows are more than 20,000,000"),
        ({"engine": "spark"}, {"rows": 7}, "spark", "it is asked for"),
        ({"engine": "spark"}, {"engine": "arrow"}, "arrow", "it is asked for"),
    ],
)
def test_engine_follows_the_declarations_the_rows_and_the_setting(
    settings: Settings, more: dict[str, Any], asked: dict[str, Any], engine: str, reason: str
) -> None:
    decided = decide_engine(settings.model_copy(update=more), **asked)
    assert (decided.name, decided.reason) == (engine, reason)


def test_without_pyspark_arrow_runs_and_what_needs_spark_says_so(settings: Settings, without_pyspark: None) -> None:
    clustered = settings.model_copy(update=ON_A_CLUSTER)
    assert decide_engine(clustered, rows=10**9).name == "arrow"
    with pytest.raises(UnavailableError, match=r"pyspark is not installed here, and the function total needs it"):
        decide_engine(settings, needs_spark=["the function total"])
    with pytest.raises(UnavailableError, match="and FORECACHE_ENGINE=spark needs it"):
        decide_engine(settings.model_copy(update={"engine": "spark"}))


def test_first_error_of_a_thread_stops_those_that_have_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    given_up, shut_down = Event(), ThreadPoolExecutor.shutdown

    def fail(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise InputError(f"number {number}")
        given_up.wait()

    def give_up(self: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        shut_down(self, wait=False, cancel_futures=cancel_futures)
        given_up.set()
        shut_down(self, wait=wait)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", give_up)
    with pytest.raises(InputError, match="number 0"):
        map_in_threads(fail, range(1000))
    assert len(begun) <= num_cores() + 1


def test_error_of_rows_that_are_read_into_a_table_is_raised_as_it_was(settings: Settings) -> None:
    def damaged() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"n": [1]})
        raise InputError("The file is damaged.")

    with scratch_database(settings) as connection:
        with pytest.raises(InputError, match=r"^The file is damaged\.$"):
            load_table(connection, "rows", RowBatches(pa.schema([("n", pa.int64())]), damaged()))
        load_table(connection, "rows", RowBatches(pa.schema([("n", pa.int64())]), [pa.record_batch({"n": [2]})]))
        assert connection.sql("SELECT n FROM rows").fetchall() == [(2,)]
