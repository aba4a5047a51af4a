"""A recommender with a catalogue: nothing is listed that is not there, or not available, on the date."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shelf_lake import LAST, copy_of, ingested, landing_of, purchases, rows_of
from shelf_project.pipelines.shelf import offers

from forecache.errors import InputError, NotYetError
from forecache.lake.ingest.ingest import ingest
from forecache.pipeline import Catalogue, Column, Recommender, Snapshot, Source
from forecache.recommend.stage import recommend
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EVE = LAST - timedelta(days=1)
STOCK = Source(
    name="stock",
    columns=(Column("article", "string"), Column("there", "boolean", required=False)),
    time=Snapshot(),
    key=("article",),
    start=EVE,
    end=LAST,
)
in_stock = replace(offers, catalogue=Catalogue(STOCK, available="there"))


@pytest.fixture(scope="module")
def lake(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return ingested(spark, tmp_path_factory.mktemp("shelf") / "home")


def land_stock(spark: "SparkSession", settings: Settings, day: date, rows: dict[str, str], name: str = "") -> None:
    folder = landing_of(settings) / "stock"
    folder.mkdir(exist_ok=True)
    lines = ["article,there", *(f"{article},{there}" for article, there in rows.items())]
    (folder / f"{day}{name}.csv").write_text("\n".join(lines) + "\n")
    ingest(spark, settings, STOCK)


def listed(settings: Settings, declared: Recommender, night: date = LAST) -> tuple[set[str], set[str]]:
    """Articles on any list of a user, and on any list of an article."""
    recommend(settings, declared, [night])
    tables = ("predictions_offers", "predictions_offers_items")
    users, items = (
        {place["item"] for row in rows_of(settings, table) if row["as_of"] == night for place in row["items"]}
        for table in tables
    )
    return users, items


def test_only_what_is_available_on_the_date_is_listed(spark: "SparkSession", lake: Settings, tmp_path: Path) -> None:
    settings = copy_of(lake, tmp_path / "home")
    articles = sorted({row["article"] for row in purchases(settings, LAST)})
    users, items = listed(settings, offers)
    gone, empty, absent = articles[3], articles[10], articles[20]
    assert {gone, empty, absent} <= users
    assert {gone, empty, absent} <= items
    stock = {article: "true" for article in articles if article != absent} | {gone: "false", empty: ""}
    land_stock(spark, settings, EVE, stock)
    with pytest.raises(InputError, match=f"The night {LAST} is empty: source 'stock' has no landing file for that day"):
        listed(settings, in_stock)
    land_stock(spark, settings, LAST, stock)
    users, items = listed(settings, in_stock)
    assert users == items == set(articles) - {gone, empty, absent}
    lists = {row["article"]: row["items"] for row in rows_of(settings, "predictions_offers_items")}
    assert lists[gone], "what is not there has a list of what belongs to it"

    assert recommend(settings, in_stock, [LAST]).skipped
    land_stock(spark, settings, LAST, stock | {gone: "true"}, name="-later")
    assert gone in listed(settings, in_stock)[0]
    assert gone not in listed(settings, in_stock, EVE)[0]


def test_a_catalogue_may_be_late_and_may_not_be_empty(spark: "SparkSession", lake: Settings, tmp_path: Path) -> None:
    settings = copy_of(lake, tmp_path / "home")
    articles = sorted({row["article"] for row in purchases(settings, LAST)})
    land_stock(spark, settings, EVE, dict.fromkeys(articles[1:], "true"))
    for missing, error in (("fail", InputError), ("wait", NotYetError)):
        declared = replace(in_stock, catalogue=Catalogue(replace(STOCK, missing=missing)))
        with pytest.raises(error):
            recommend(settings, declared, [LAST])
    late = replace(in_stock, catalogue=Catalogue(replace(STOCK, missing="last")))
    assert articles[0] not in listed(settings, late)[0]
    land_stock(spark, settings, LAST, {"others-01": "true"})
    with pytest.raises(InputError, match=r"None of the \d+ items that users of offers took is available on"):
        recommend(settings, in_stock, [LAST])
    assert {row["as_of"] for row in rows_of(settings)} == {LAST}, "what was there stays"
