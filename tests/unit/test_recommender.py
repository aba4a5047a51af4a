"""What a recommender refuses when it is declared, since a landed row or a night would fail by it later."""

from datetime import date
from typing import Any

import pytest

from forecache import Catalogue, Recommender
from forecache.base.errors import SettingsError
from forecache.declare import Column, Snapshot, Source, Static
from forecache.plugins.recommend.models import Ease

SOURCE = Source(
    name="visits",
    columns=(
        Column("who", "bigint"),
        Column("what", "string"),
        Column("maybe", "int", required=False, minimum=0),
        Column("spent", "double"),
        Column("times", "int", minimum=0),
        Column("day", "date"),
    ),
    event_time="day",
    start=date(2026, 1, 1),
)


def declared(**changes: Any) -> Recommender:
    return Recommender(**{"name": "r", "source": SOURCE, "user": "who", "item": "what", "model": Ease(), **changes})


def stock(**changes: Any) -> Source:
    columns = (Column("what", "string"), Column("number", "int"), Column("there", "boolean", required=False))
    declared_ = {"name": "stock", "columns": columns, "time": Snapshot(), "key": ("what",), "start": SOURCE.start}
    return Source(**{**declared_, **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Catalogue(SOURCE), "has source='visits'. It says what there is on a day"),
        (lambda: Catalogue(stock(time=Static(), key=())), "has source='stock'. Give that source the item as its key"),
        (lambda: Catalogue(stock(key=("what", "number"))), "Give that source the item as its key, one column"),
        (lambda: Catalogue(stock(), available="number"), "In source 'stock' that is a int; it has to be a boolean"),
        (lambda: Catalogue(stock(), available="nothing"), "that is a column that it does not declare"),
        (
            lambda: declared(catalogue=Catalogue(stock(key=("number",)))),
            "has items of type string, and source 'stock' of its catalogue has a key of another type",
        ),
        (lambda: Catalogue(stock(), region="number"), "`Catalogue` has region or users without the other"),
        (
            lambda: Catalogue(stock(), region="number", users=stock()),
            "has source='stock'. Give that source two columns as its key, the item and 'number'",
        ),
        (
            lambda: Catalogue(stock(key=("what", "number")), region="number", users=stock(key=("number",))),
            "has users='stock'. Give that source the user as its key, one column, which is not the region",
        ),
        (
            lambda: Catalogue(stock(key=("what", "number")), region="what", users=SOURCE),
            "has users='visits'. It says what there is on a day",
        ),
    ],
)
def test_a_catalogue_that_does_not_fit_is_refused(make: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": "maybe"}, "has user='maybe'. That column may be null"),
        ({"item": "maybe"}, "has item='maybe'. That column may be null"),
        ({"weight": "maybe"}, "has weight='maybe'. That column may be null"),
        ({"weight": "spent"}, "has weight='spent'. Declare a minimum of 0 or more"),
        ({"item": "who"}, "declares the column 'who' twice"),
        ({"item": "day"}, "declares the column 'day' twice"),
        ({"group": "what", "most_of_group": 1}, "declares the column 'what' twice"),
        ({"k": 5}, "has k=5. It judges the first 10 places: give at least as many"),
        ({"k": 1001}, "has k=1001. A list has at most 1,000 items"),
        ({"user": "nobody"}, "has the column 'nobody', which source 'visits' does not declare"),
        ({"user": "spent"}, "has the key column 'spent', which is a double"),
        ({"group": "what"}, "group or most_of_group without the other"),
        ({"model": Ease}, r"It is a model of forecache.plugins.recommend, such as Ease\(\)"),
        ({"history_days": 28}, "has history_days=28. The gate does not show the last 28 of them"),
        ({"history_days": 60, "exclude_days": 61}, "has exclude_days=61. What was taken longer ago than"),
        ({"history_days": 60, "exclude_days": None}, "has exclude_days=None. What was taken longer ago than"),
    ],
)
def test_what_a_night_would_fail_by_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        declared(**changes)
