"""A pipeline that joins two views: what a shop sold, and what its region did, by an entity's column."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from forecache.base.settings import Settings
from forecache.declare import (
    Column,
    Entities,
    Feature,
    Features,
    FeatureView,
    FunctionModel,
    Output,
    Pipeline,
    Source,
    Window,
)

START = date(2026, 1, 1)
SALES = Source(
    "sales", (Column("shop", "string"), Column("day", "date"), Column("amount", "double")), "day", start=START
)
FLOWS = Source(
    "flows", (Column("region", "string"), Column("day", "date"), Column("people", "bigint")), "day", start=START
)
OPENED = Source(
    "opened", (Column("shop", "string"), Column("region", "string"), Column("day", "date")), "day", start=START
)


def people(events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    return events["flows"].groupBy("region", "as_of").agg(F.sum("people").alias("people"))


def shops(events: Mapping[str, Any]) -> Any:
    """Every shop that has opened, with its region."""
    return events["opened"].select("shop", "region", "as_of")


def guess(features: Any) -> Any:
    return features["amount_2d"]


SHOP = FeatureView("shop", ("shop",), (SALES,), windows=(Window("amount_2d", "sum", 2, "amount"),))
REGION = FeatureView("region", ("region",), (FLOWS,), Features(columns=(Feature("people"),), compute=people))
WITH_REGION = Pipeline(
    name="takings",
    key=("shop",),
    features=(SHOP, REGION),
    entities=Entities(shops, (OPENED,), columns=("region",)),
    model=FunctionModel(guess),
    outputs=(Output("takings"),),
)


def land_all(settings: Settings) -> None:
    """Three shops, one of which never sold anything, and one whose region nobody counts."""
    rows = {
        "opened": {1: ["a,north", "b,south", "c,north"]},
        "sales": {1: ["a,1.5", "b,7"], 2: ["a,2"], 3: [], 4: []},
        "flows": {1: ["north,10"], 2: ["north,5"], 3: [], 4: []},
    }
    heads = {"opened": "shop,region,day", "sales": "shop,amount,day", "flows": "region,people,day"}
    for source, by_day in rows.items():
        for number in range(1, 5):
            land(settings, source, number, heads[source], by_day.get(number, []))


def land(settings: Settings, source: str, number: int, head: str, lines: list[str], *, name: str = "") -> None:
    folder, day = Path(settings.landing_uri) / source, date(2026, 1, number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{day}{name}.csv").write_text("\n".join([head, *(f"{line},{day}" for line in lines), ""]))
