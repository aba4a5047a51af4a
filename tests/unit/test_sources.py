"""What a source may declare, and the sentence for what it may not."""

import dataclasses
from datetime import date
from typing import Any

import pytest

from forecache.base.errors import SettingsError
from forecache.base.settings import load_settings
from forecache.declare import (
    Column,
    Feature,
    Features,
    Pipeline,
    Query,
    Snapshot,
    Source,
    Static,
    StreamDay,
    TableSource,
    load_pipeline,
)

PRODUCT = (Column("product_id", "int"), Column("price", "double", required=False), Column("day", "date"))


def landed(**changes: Any) -> Source:
    return Source(**{"name": "products", "columns": PRODUCT, "start": date(2026, 1, 1), **changes})


@pytest.fixture
def churn() -> Pipeline:
    declared = load_pipeline(load_settings(), "churn")
    own = declared.views[0]
    return dataclasses.replace(declared, features=own.features, sources=own.sources)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Source 'products' has neither `event_time` nor `time`. Give the column of the event time, or"),
        ({"event_time": "day", "time": Static()}, "has both `event_time` and `time`. Give"),
        ({"event_time": "date"}, "refers to the column 'date', which it does not declare. Its columns are product_id,"),
        ({"event_time": "price"}, "has event_time='price'. It is a date or timestamp column, not a double."),
        ({"time": Snapshot()}, "is a snapshot without a key. Declare the columns that its states are of, as `key`."),
        ({"time": Snapshot(), "key": ("id",)}, "has the key column 'id', which it does not declare. Its columns are"),
        ({"time": Static(), "key": ("price",)}, "has the key column 'price', which is a double. Keys are strings,"),
        ({"time": Snapshot(day="day"), "key": ("product_id",)}, "A snapshot's day is in the names of its files"),
        ({"time": Static(), "missing": "last"}, "has missing='last'. Rows without time are never missing; leave it"),
        ({"time": Static(), "unique": ("price",)}, "has unique=('price',). Only events have it; give a `key`."),
        ({"event_time": "day", "missing": "skip"}, "has missing='skip'. It is one of 'wait', 'last', 'fail'."),
        ({"event_time": "day", "time": "static"}, "has time='static'. It is a Snapshot or a Static or None."),
    ],
)
def test_source_that_makes_no_sense_is_refused_with_the_remedy(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        landed(**changes)
    assert sentence in str(refused.value)


def test_key_that_may_be_null_is_refused() -> None:
    columns = (Column("product_id", "int", required=False),)
    with pytest.raises(SettingsError, match=r"has the key column 'product_id', which may be null\. Make it required\."):
        landed(columns=columns, time=Snapshot(), key=("product_id",))


def test_source_of_a_pipeline_needs_not_have_its_key(churn: Pipeline) -> None:
    products = landed(time=Snapshot(), key=("product_id",), start=date(1997, 6, 1))
    both = dataclasses.replace(churn, sources=(*churn.sources, products))
    assert both.start == date(1997, 6, 1)


def test_key_of_another_type_in_a_second_source_is_refused(churn: Pipeline) -> None:
    columns = (Column("customer_id", "bigint"), Column("since", "date"))
    accounts = Source("accounts", columns, start=date(1997, 1, 1), time=Snapshot(), key=("customer_id",))
    with pytest.raises(SettingsError) as refused:
        dataclasses.replace(churn, sources=(*churn.sources, accounts))
    assert str(refused.value) == (
        "Pipeline 'churn' has the key column 'customer_id', which is a string in source 'purchases' and a bigint in "
        "source 'accounts'. Declare it with one type: values of different types are never equal."
    )


def test_key_of_a_type_that_cannot_be_one_is_refused(churn: Pipeline) -> None:
    purchases = churn.sources[0]
    columns = tuple(dataclasses.replace(c, type="double") if c.name == "customer_id" else c for c in purchases.columns)
    with pytest.raises(SettingsError, match="'customer_id', which is a double in source 'purchases'. Keys are"):
        dataclasses.replace(churn, sources=(dataclasses.replace(purchases, columns=columns),))


def table(**changes: Any) -> TableSource:
    return TableSource(**{"name": "products", "uri": "s3://lake/products", "columns": PRODUCT, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "has neither `event_time` nor `time`"),
        ({"event_time": "day", "uri": ""}, "has uri=''. Give the table's folder or URI."),
        ({"event_time": "day", "uri": "hdfs://x/y"}, "Give a folder, or a URI that starts with s3://."),
        ({"event_time": "day", "uri": "s3://me:secret@x/y"}, "Give a folder, or a URI that starts with s3://."),
        ({"event_time": "day", "format": "iceberg"}, "has format='iceberg'. It is one of 'delta', 'parquet'."),
        ({"time": Snapshot(day="date"), "key": ("product_id",)}, "the column 'date', which it does not declare"),
        ({"time": Snapshot(day="price"), "key": ("product_id",)}, "has day='price'. It is a date column, not a double"),
        (
            {"time": Snapshot(), "key": ("product_id",), "format": "parquet"},
            "is a snapshot of Parquet files, which have no versions. Declare the column that says of which day a row",
        ),
        ({"time": Static(), "missing": "wait"}, "Rows without time are never missing; leave it out."),
        ({"event_time": "day", "start": date(2026, 1, 2), "end": date(2026, 1, 1)}, "It is not before the start, 2026"),
        ({"time": Static(), "columns": (Column("as_of", "date"),)}, "declares the column 'as_of' twice"),
        ({"time": Static(), "columns": (Column("n", "int", minimum=0),)}, "Limits are for landing files, which have a"),
    ],
)
def test_table_that_makes_no_sense_is_refused_with_the_remedy(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        table(**changes)
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value) or "@" in str(changes["uri"])


def test_day_of_a_table_may_be_called_as_of() -> None:
    columns = (Column("customer_id", "string"), Column("as_of", "date"), Column("spent", "double"))
    assert table(columns=columns, time=Snapshot(day="as_of"), key=("customer_id",)).day_column == "as_of"


@pytest.mark.parametrize(
    ("changes", "names", "sentence"),
    [
        ({"event_time": "day"}, ("price",), "features without a function from source 'products', which has events."),
        ({"time": Static()}, ("price",), "from source 'products', which has the key none. Declare it as a snapshot"),
        ({"time": Static(), "key": ("product_id",)}, ("cost",), "'cost' from source 'products', which it does not"),
        ({"time": Static(), "key": ("product_id",)}, ("day",), "'day' from source 'products', which is a date there."),
        ({"time": Static(), "key": ("product_id",), "start": None}, ("price",), "has no first day. Give one of its"),
    ],
)
def test_features_without_a_function_are_number_columns_of_one_snapshot(
    churn: Pipeline, changes: dict[str, Any], names: tuple[str, ...], sentence: str
) -> None:
    features = Features(columns=tuple(map(Feature, names)))
    source = table(**{"start": date(2026, 1, 1), **changes})
    with pytest.raises(SettingsError) as refused:
        dataclasses.replace(churn, key=("product_id",), sources=(source,), features=features)
    assert sentence in str(refused.value)


def test_features_without_a_function_have_one_source(churn: Pipeline) -> None:
    features = Features(columns=(Feature("price"),))
    with pytest.raises(SettingsError, match=r"has features without a function and 2 sources\. Give the features a"):
        dataclasses.replace(churn, features=features, sources=(*churn.sources, table(time=Static())))


BOUND = "select * from t where day >= :start and day < :end"


@pytest.mark.parametrize(
    ("declare", "sentence"),
    [
        (lambda: Query("shop"), "`Query` of 'shop' has neither `sql` nor `table`. Give one of them."),
        (lambda: Query("shop", sql="select 1", table="t"), "`Query` of 'shop' has both `sql` and `table`."),
        (lambda: Query("", table="t"), "has database=''. Name one of FORECACHE_DATABASES."),
        (lambda: Query("postgresql://me:secret@h/d", table="t"), "That looks like a URL; give the name that it has in"),
        (lambda: Query("shop", table="t", batch_rows=0), "has batch_rows=0. Give 1 or more."),
        (lambda: Query("shop", table="t", late_days=-1), "has late_days=-1. Give 0 or more."),
        (
            lambda: landed(time=Static(), extract=Query("shop", table="t", late_days=1)),
            "has late_days=1. Only rows of an event's day come late; leave it out.",
        ),
        (
            lambda: landed(event_time="day", extract=Query("shop", sql="select * from t where day >= :start")),
            "has a query with the parameters :start. A query of events has :start and :end, the day's bounds.",
        ),
        (
            lambda: landed(time=Snapshot(), key=("product_id",), extract=Query("shop", sql=BOUND)),
            "has a query with the parameters :end, :start. A query without event time has none.",
        ),
        (
            lambda: landed(event_time="day", extract=Query("shop", table="t"), file_pattern=r"(?P<day>\d+)\.csv"),
            "which the files of its extract do not match. They are named like '2000-01-01.parquet'",
        ),
        (
            lambda: landed(event_time="day", extract=StreamDay("cards"), file_pattern=r"(?P<day>\d+)\.csv"),
            "which the files of its extract do not match. They are named like '2000-01-01.parquet'",
        ),
        (lambda: landed(time=Static(), extract=StreamDay("cards")), "and no `event_time`. Only events are streamed"),
        (
            lambda: landed(event_time="day", extract=Query("shop", table="t"), missing="wait"),
            "A day is asked for when it is needed: there is nothing to wait for.",
        ),
    ],
)
def test_query_that_makes_no_sense_is_refused_with_the_remedy(declare: Any, sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        declare()
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value)


def test_cast_in_a_query_is_no_parameter() -> None:
    sql = "select day::date, '12:30' as at from t where day >= :start and day < :end"
    assert landed(event_time="day", extract=Query("shop", sql=sql)).extract is not None
