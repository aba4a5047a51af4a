"""What a source may declare, and the sentence for what it may not."""

import dataclasses
from datetime import date
from typing import Any

import pytest

from forecache.errors import SettingsError
from forecache.pipeline import Column, Pipeline, Snapshot, Source, Static, load_pipeline
from forecache.settings import load_settings

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
