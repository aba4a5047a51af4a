"""Features, labels and entities in SQL: by DuckDB and by Spark, against plain Python, and a whole project."""

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from sql_project.pipelines.orders import CUSTOMER, CUSTOMERS, ORDERS, REGION, REGIONS, orders

from forecache.base.errors import InputError, SettingsError
from forecache.base.settings import Settings, load_settings
from forecache.declare import (
    Baseline,
    Column,
    Feature,
    Features,
    FeatureView,
    Gate,
    Label,
    Snapshot,
    Static,
    TableSource,
)
from forecache.kit.delta.tables import open_table
from forecache.lake.arrow_rows import entity_rows, label_rows, view_rows
from forecache.lake.feature_rows import feature_frame, view_frame
from forecache.lake.features import build_features, stale_nights
from forecache.lake.ingest.ingest import ingest
from forecache.lake.stored_features import RowBatches
from forecache.lake.training_set import build_training_set, label_frame

SUPPORT = Path(__file__).parent.parent / "support"
DAYS = [date(2026, 1, day) for day in range(1, 7)]
Order = tuple[str, datetime, float | None, int | None]


def generate(seed: int, customers: int = 25) -> list[Order]:
    """Orders whose times often are the first or last instant of a day, with ties and nulls."""
    draw = Random(seed)

    def one(customer: int) -> Order:
        instant = draw.choice([0, 86_399_999_999, draw.randrange(86_400_000_000)])
        at = datetime(2026, 1, draw.randint(1, 6), tzinfo=timezone.utc) + timedelta(microseconds=instant)
        amount = draw.choice([None, 0.1, 0.2, -0.0, draw.uniform(0, 1e6), 1e12])
        return f"c{customer:02}", at, amount, draw.choice([None, 1, 2, 3])

    return [one(customer) for customer in range(customers) for _ in range(draw.randint(0, 12))]


def land(settings: Settings, source: str, day: date, rows: pa.Table, name: str = "") -> None:
    folder = Path(settings.landing_uri) / source
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / f"{day}{name}.parquet")


def land_orders(settings: Settings, some: Iterable[Order], name: str = "") -> None:
    for day in DAYS:
        columns = list(zip(*(order for order in some if order[1].date() == day), strict=True)) or [()] * 4
        types = (pa.string(), pa.timestamp("us", "UTC"), pa.float64(), pa.int32())
        arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        if columns[0] or not name:
            land(settings, "orders", day, pa.table(arrays, names=["customer", "at", "amount", "pieces"]), name)


def land_all(settings: Settings, some: Iterable[Order]) -> None:
    """Orders of six days, states of customers who move on the third day, and regions."""
    land_orders(settings, some)
    for day, regions in ((DAYS[0], ["north", "south"]), (DAYS[2], ["south", "west", "north"])):
        names = [f"c{number:02}" for number in range(30)]
        of = [regions[number % len(regions)] for number in range(30)]
        since = [date(2025, 1, 1) + timedelta(days=number) for number in range(30)]
        land(settings, "customers", day, pa.table({"customer": names, "region": of, "since": since}))
    land(settings, "regions", DAYS[0], pa.table({"region": ["north", "south"], "weight": pa.array([3, None])}))
    for source in (ORDERS, CUSTOMERS, REGIONS):
        ingest(settings, source)


@pytest.fixture(scope="module")
def some() -> list[Order]:
    return generate(7)


@pytest.fixture(scope="module")
def lake(spark: Any, some: list[Order], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = load_settings(home=tmp_path_factory.mktemp("sql") / "home", spark_master="local[2]")
    land_all(settings, some)
    return settings


def expected_customers(some: Sequence[Order], night: date) -> list[tuple[Any, ...]]:
    """Customer, orders, spent_3d, mean_pieces, last_amount, days_since and kind as of a night; sums in exact steps."""
    found = []
    known = [(c, at, None if a is None else a + 0.0, p) for c, at, a, p in some if at.date() <= night]
    for customer in sorted({order[0] for order in known}):
        own = [order for order in known if order[0] == customer]
        last = max(((at, amount) for _, at, amount, _ in own if amount is not None), default=(None, None))[1]
        newest = [a for _, at, a, _ in own if at.date() > night - timedelta(days=3) and a is not None]
        steps = sum(round(amount * 2**32) for amount in newest)
        pieces = [p for *_, p in own if p is not None]
        found.append(
            (
                customer,
                len(own),
                float32(math.floor(steps / 2**32) + (steps % 2**32) / 2**32) if newest else None,
                float32(sum(pieces) / len(pieces)) if pieces else None,
                float32(last),
                float32((night - max(at.date() for _, at, _, _ in own)).days),
                "often" if len(own) >= 5 else "seldom",
            )
        )
    return found


def float32(value: float | None) -> float | None:
    return pa.scalar(value, pa.float64()).cast(pa.float32(), safe=False).as_py()  # type: ignore[no-any-return]


def read(rows: RowBatches) -> pa.Table:
    return pa.Table.from_batches(rows.batches, rows.schema)


def in_order(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in table.column_names if not pa.types.is_list(table[name].type)])


def require_equal(frame: Any, rows: RowBatches) -> pa.Table:
    """The rows that DuckDB gives, which are Spark's to the bit, and of the same types."""
    here, there = in_order(read(rows)), in_order(frame.toArrow())
    kinds = [{(f.name, str(f.type).replace("element", "item")) for f in each.schema} for each in (here, there)]
    assert kinds[0] == kinds[1]
    there = there.select(here.column_names).cast(here.schema)
    assert in_order(there).equals(in_order(here))
    return here


@pytest.mark.parametrize("nights", [DAYS[:1], DAYS, [DAYS[4], DAYS[2]]])
def test_features_are_those_of_plain_python_in_both_engines_and_see_no_later_row(
    lake: Settings, spark: Any, some: list[Order], nights: list[date]
) -> None:
    rows = require_equal(view_frame(spark, lake, CUSTOMER, nights), view_rows(lake, CUSTOMER, nights))
    for night in nights:
        of_night = [row for row in rows.to_pylist() if row["as_of"] == night]
        found = [(row["customer"], *(row[name] for name in CUSTOMER.feature_names)) for row in of_night]
        assert sorted(found) == expected_customers(some, night)


def test_snapshots_and_static_rows_are_those_of_the_night_in_both_engines(lake: Settings, spark: Any) -> None:
    rows = require_equal(view_frame(spark, lake, REGION, DAYS), view_rows(lake, REGION, DAYS))
    by_night = {night: {} for night in DAYS}  # type: dict[date, dict[str, tuple[float, int | None]]]
    for row in rows.to_pylist():
        by_night[row["as_of"]][row["region"]] = (row["customers"], row["weight"])
    assert by_night[DAYS[1]] == {"north": (15.0, 3), "south": (15.0, None)}
    assert by_night[DAYS[2]] == {"north": (10.0, 3), "south": (10.0, None), "west": (10.0, None)}


def test_entities_and_labels_are_equal_in_both_engines_and_see_the_horizon_alone(
    lake: Settings, spark: Any, some: list[Order]
) -> None:
    nights = DAYS[:4]
    entities = read(entity_rows(lake, orders, nights))
    assert entities.schema.names == ["customer", "as_of", "region"]
    frame = spark.createDataFrame(entities).select("customer", "as_of")
    labels = label_rows(lake, orders, nights, entities=entities.select(["customer", "as_of"]))
    found = require_equal(label_frame(spark, lake, orders, frame, nights), labels)
    assert found.num_rows == 30 * len(nights)
    for row in found.to_pylist():
        day = row["as_of"] + timedelta(days=1)
        own = [a for c, at, a, _ in some if (c, at.date()) == (row["customer"], day) and a is not None]
        steps = sum(round(amount * 2**32) for amount in own)
        assert row["next_spend"] == math.floor(steps / 2**32) + (steps % 2**32) / 2**32
    joined = feature_frame(spark, lake, orders, nights)
    assert joined.count() == 30 * len(nights)


def test_late_file_makes_nights_stale_and_other_blanks_in_the_sql_do_not(settings: Settings, spark: Any) -> None:
    land_all(settings, generate(8))
    build_features(settings, orders, [DAYS[5]])
    assert CUSTOMER.features is not None
    blank = replace(CUSTOMER, features=replace(CUSTOMER.features, sql=f"/* spent */ {CUSTOMER.features.sql}"))
    assert stale_nights(settings, orders) == stale_nights(settings, blank) == ()
    land_orders(settings, [("c99", datetime(2026, 1, 2, tzinfo=timezone.utc), 5.0, 1)], ".late")
    ingest(settings, ORDERS)
    assert stale_nights(settings, orders) == stale_nights(settings, blank) == (DAYS[5],)


TEXTS = FeatureView(
    "notes",
    ("customer",),
    (CUSTOMERS,),
    Features(
        columns=(Feature("note", type="text", size=4), Feature("region", type="category"), Feature("is_old")),
        sql="""
            select customer, as_of, nullif(region, 'north') as note, if(region = 'south', '', region) as region,
                since < date '2025-01-10' as is_old
            from customers
        """,
    ),
)


def test_texts_categories_and_booleans_are_stored_as_those_of_functions(lake: Settings, spark: Any) -> None:
    rows = require_equal(view_frame(spark, lake, TEXTS, DAYS[2:3]), view_rows(lake, TEXTS, DAYS[2:3]))
    assert set(rows["region"].to_pylist()) == {"north", None, "west"}
    assert sum(rows["is_old"].to_pylist()) == 9.0
    assert rows["note"].null_count == 10


COLUMNS = (Column("a", "string"), Column("n", "int"), Column("at", "timestamp"), Column("day", "date"))
ROWS = pa.table(
    {
        "a": ["x", "y", "x", "z"],
        "n": pa.array([1, 2, 3, None], pa.int16()),
        "at": pa.array([datetime(2026, 1, d, h) for d, h in ((1, 0), (1, 23), (3, 12), (4, 0))], pa.timestamp("ns")),
        "day": [date(2026, 1, 1), date(2026, 1, 1), date(2026, 1, 3), date(2026, 1, 4)],
    }
)


@pytest.mark.parametrize("kind", ["delta", "parquet"])
@pytest.mark.parametrize("time", ["events", "timed events", "days", "static"])
def test_existing_tables_give_the_rows_of_the_night_in_both_engines(
    settings: Settings, spark: Any, tmp_path: Path, kind: Any, time: str
) -> None:
    if kind == "delta":
        write_deltalake(tmp_path / "t", ROWS.set_column(2, "at", ROWS["at"].cast(pa.timestamp("us", "UTC"))))
    else:
        pq.write_to_dataset(ROWS, tmp_path / "t")
    known: dict[str, Any] = {
        "events": {"event_time": "day"},
        "timed events": {"event_time": "at"},
        "days": {"time": Snapshot(day="day"), "key": ("a",)},
        "static": {"time": Static()},
    }[time]
    source = TableSource("t", str(tmp_path / "t"), COLUMNS, format=kind, start=DAYS[0], **known)
    compare_table(settings, spark, source, DAYS[:5])


def compare_table(settings: Settings, spark: Any, source: TableSource, nights: list[date]) -> list[Any]:
    """Rows known on nights and in the horizon of two days, through SQL by both engines."""
    sql = (
        "select a, as_of, count(*) as n, sum(n) as s, date_diff('day', as_of, max(event_day)) as d from t group by all"
    )
    features = (Feature("n", type="integer"), Feature("s"), Feature("d"))
    view = FeatureView("tried", ("a",), (source,), Features(features, sql=sql))
    found = require_equal(view_frame(spark, settings, view, nights), view_rows(settings, view, nights))
    label = Label("s", "regression", 2, sql=sql.replace("sum(n)", "coalesce(sum(n), count(*))"))
    pipeline = replace(
        orders,
        key=("a",),
        features=Features(features[:1], sql=sql),
        entities=None,
        sources=(source,),
        label=label,
        gate=Gate("mae", floors={"mae": 1e6}, baseline=Baseline("n")),
    )
    frame = view_frame(spark, settings, view, nights).select("a", "as_of")
    labels = label_rows(settings, pipeline, nights, entities=found.select(["a", "as_of"]))
    later = require_equal(label_frame(spark, settings, pipeline, frame, nights), labels)
    assert found.num_rows
    return [found, later]


@pytest.mark.parametrize("time", ["events", "static"])
def test_decimals_and_nanoseconds_of_parquet_are_the_same_values_in_both_engines(
    settings: Settings, spark: Any, tmp_path: Path, time: str
) -> None:
    keys = [f"k{number:03}" for number in range(300)]
    amounts = [Decimal(1_000_000 + number * 3_331) / 1_000_000 for number in range(300)]
    moments = [1_767_225_600_000_000_000 + number * 1_001 for number in range(299)] + [-1]
    rows = {"a": keys, "amount": pa.array(amounts, pa.decimal128(18, 6)), "at": pa.array(moments, pa.timestamp("ns"))}
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({**rows, "day": [date(2026, 1, 1)] * 300}), tmp_path / "t" / "a.parquet")
    columns = (Column("a", "string"), Column("amount", "double"), Column("at", "timestamp"), Column("day", "date"))
    known: dict[str, Any] = {"events": {"event_time": "day"}, "static": {"time": Static(), "key": ("a",)}}[time]
    source = TableSource("t", str(tmp_path / "t"), columns, format="parquet", start=DAYS[0], **known)
    # All bits of a double between 1 and 2, and all microseconds.
    sql = "select a, as_of, cast(amount * 4503599627370496 as bigint) as bits, epoch_us(at) as micros from t"
    features = Features((Feature("bits", type="integer"), Feature("micros", type="integer")), sql=sql)
    view = FeatureView("exact", ("a",), (source,), features)
    found = require_equal(view_frame(spark, settings, view, DAYS[:1]), view_rows(settings, view, DAYS[:1])).sort_by("a")
    assert found["bits"].to_pylist() == [int(float(amount) * 2**52) for amount in amounts]
    assert found["micros"].to_pylist() == [moment // 1_000 for moment in moments]


def test_states_that_are_versions_give_the_rows_of_the_night_in_both_engines(
    settings: Settings, spark: Any, tmp_path: Path
) -> None:
    write_deltalake(tmp_path / "t", ROWS.select(["a", "n"]).slice(0, 2))
    write_deltalake(tmp_path / "t", ROWS.select(["a", "n"]).slice(1), mode="overwrite")
    today = datetime.now(timezone.utc).date()
    source = TableSource("t", str(tmp_path / "t"), COLUMNS[:2], time=Snapshot(), key=("a",), start=date(2026, 1, 1))
    found, later = compare_table(settings, spark, source, [today - timedelta(days=1), today])
    assert found["a"].to_pylist() == ["x", "y", "z"]
    assert set(later["as_of"].to_pylist()) == {today - timedelta(days=1)}


def test_values_that_cannot_be_summed_are_told_with_the_declaration(settings: Settings, spark: Any) -> None:
    land_all(settings, [("c01", datetime(2026, 1, 1, 5, tzinfo=timezone.utc), 1e15, 1)])
    with pytest.raises(InputError, match=r"The SQL of the features of 'customer' failed: .*2\*\*44.* Change the SQL"):
        read(view_rows(settings, CUSTOMER, DAYS[:1]))
    with pytest.raises(Exception, match=r"2\*\*44"):
        view_frame(spark, settings, CUSTOMER, DAYS[:1]).collect()


def test_spark_without_its_ansi_mode_is_refused(lake: Settings, spark: Any) -> None:
    spark.conf.set("spark.sql.ansi.enabled", "false")
    try:
        with pytest.raises(SettingsError, match="SQL of declarations needs Spark's spark.sql.ansi.enabled=true"):
            view_frame(spark, lake, CUSTOMER, DAYS[:1])
    finally:
        spark.conf.set("spark.sql.ansi.enabled", "true")


@pytest.mark.slow
def test_a_project_in_sql_runs_whole_without_spark_and_its_tables_are_those_of_spark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: Any
) -> None:
    from forecache.kit.spark import session
    from forecache.runs import run_night
    from forecache.serve.store import open_store

    monkeypatch.syspath_prepend(str(SUPPORT))
    settings = load_settings(home=tmp_path / "home", project="sql_project", engine="arrow")
    noon = [datetime(2026, 1, day.day, 12, tzinfo=timezone.utc) for day in DAYS]
    some: list[Order] = [(f"c{number:02}", at, number * 10.1 + at.day % 2, 1) for number in range(30) for at in noon]
    land_all(settings, some)
    shutil.copytree(settings.home_path, tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr(session, "spark_session", None)
        results = run_night(settings, DAYS[-1])
    assert {"features", "training_set", "train", "register", "score", "publish"} == {r.stage for r in results}
    manifest = open_store(settings, "orders").current()
    assert manifest is not None
    assert (manifest.as_of, manifest.rows) == (DAYS[-1].isoformat(), 30)
    table = open_table(settings, "features_customer").to_pyarrow_table()
    found = sorted((row["customer"], *(row[name] for name in CUSTOMER.feature_names)) for row in table.to_pylist())
    assert found == expected_customers(some, DAYS[-1])
    assert [result.stage for result in run_night(settings, DAYS[-1]) if not result.skipped] == []

    other = load_settings(home=tmp_path / "other", project="sql_project", engine="spark", spark_master="local[2]")
    build_features(other, orders, [DAYS[-1]])
    build_training_set(other, orders, DAYS[-1])
    for name in ("features_customer", "features_region", "features_orders", "training_set_orders"):
        here, there = (in_order(open_table(each, name).to_pyarrow_table()) for each in (settings, other))
        assert here.num_rows, name
        assert there.select(here.column_names).cast(here.schema).equals(here), name
