"""A recommender with a catalogue: nothing is listed that is not there, or not available, on the date."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from shelf_lake import LAST, copy_of, ingested, landing_of, purchases, rows_of
from shelf_project.pipelines.shelf import offers

from forecache import Catalogue, Recommender
from forecache.base.errors import InputError, NotYetError
from forecache.base.settings import Settings
from forecache.declare import Column, Snapshot, Source, Static, TableSource
from forecache.lake.ingest.ingest import ingest
from forecache.plugins.recommend.stage import recommend

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
    ingest(settings, STOCK)


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
    with pytest.raises(
        InputError, match=f"As-of date {LAST} is empty: source 'stock' has no landing file for that day"
    ):
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


def table_of(tmp_path: Path, name: str, columns: tuple[Column, ...], rows: dict[str, list[Any]], **more: Any) -> Any:
    """An existing Delta table, or a folder of Parquet files, and the source that reads it."""
    folder = tmp_path / name
    if more.get("format") == "parquet":
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.table(rows), folder / "rows.parquet")
    else:
        write_deltalake(folder, pa.table(rows), mode="overwrite")
    return TableSource(name, str(folder), columns, **more)


SHELF = (Column("article", "string"), Column("there", "boolean"), Column("day", "date"))


@pytest.mark.parametrize("kind", ["delta", "parquet"])
def test_the_catalogue_may_be_an_existing_table_of_which_the_last_day_counts(
    lake: Settings, tmp_path: Path, kind: str
) -> None:
    settings = copy_of(lake, tmp_path / "home")
    articles = sorted({row["article"] for row in purchases(settings, LAST)})
    rows: dict[str, list[Any]] = {"article": articles * 2, "there": [True] * 2 * len(articles)}
    rows["day"] = [EVE] * len(articles) + [LAST] * len(articles)
    rows["there"][len(articles) + 3], rows["there"][len(articles) + 4] = False, None
    more: dict[str, Any] = {"time": Snapshot(day="day"), "key": ("article",), "format": kind}
    stock = table_of(tmp_path, "shelf_stock", SHELF, rows, **more)
    declared = replace(offers, catalogue=Catalogue(stock, available="there"))
    users, items = listed(settings, declared)
    assert users == items == set(articles) - {articles[3], articles[4]}
    assert recommend(settings, declared, [LAST]).skipped
    assert articles[3] in listed(settings, declared, EVE)[0]

    rows["there"][len(articles) + 3] = True
    table_of(tmp_path, "shelf_stock", SHELF, rows, **more)
    result = recommend(settings, declared, [LAST])
    assert not result.skipped
    assert result.details["nights"][LAST.isoformat()]["pinned"]["shelf_stock"]["uri"] == str(tmp_path / "shelf_stock")
    assert articles[3] in listed(settings, declared)[0]

    # What the gate judges by has changed, the state of the date has not.
    eve = LAST - timedelta(days=offers.gate.test_days)
    earlier = {"article": articles[1:], "there": [True] * len(articles[1:]), "day": [eve] * len(articles[1:])}
    more_rows = {name: [*earlier[name], *values] for name, values in rows.items()}
    table_of(tmp_path, "shelf_stock", SHELF, more_rows, **more)
    assert not recommend(settings, declared, [LAST]).skipped

    rows["article"][-1] = articles[0]
    table_of(tmp_path, "shelf_stock", SHELF, rows, **more)
    with pytest.raises(InputError, match=f"has the key article {articles[0]} in 2 rows of .*the state of {LAST}"):
        recommend(settings, declared, [LAST])


def test_a_user_s_list_has_only_what_is_available_in_the_user_s_region(lake: Settings, tmp_path: Path) -> None:
    settings = copy_of(lake, tmp_path / "home")
    bought = purchases(settings, LAST)
    articles = sorted({row["article"] for row in bought})
    customers = sorted({row["customer"] for row in bought})
    there = {(article, region): (n + m) % 3 != 0 for n, article in enumerate(articles) for m, region in enumerate("ab")}
    stock = table_of(
        tmp_path,
        "region_stock",
        (Column("article", "string"), Column("region", "string"), Column("there", "boolean")),
        {
            "article": [article for article, _ in there],
            "region": [region for _, region in there],
            "there": list(there.values()),
        },
        time=Static(),
        key=("region", "article"),
    )
    region_of = {name: (None, "a", "b", "elsewhere")[n % 4] for n, name in enumerate(customers[:-1])}
    where = table_of(
        tmp_path,
        "where",
        (Column("customer", "string"), Column("region", "string")),
        {"customer": list(region_of), "region": list(region_of.values())},
        time=Static(),
        key=("customer",),
    )
    declared = replace(offers, catalogue=Catalogue(stock, "there", region="region", users=where))
    _, items = listed(settings, declared)
    allowed = {region: {article for article in articles if there[article, region]} for region in "ab"}
    everywhere = allowed["a"] & allowed["b"]
    assert items == allowed["a"] | allowed["b"]
    lists = {row["customer"]: {place["item"] for place in row["items"]} for row in rows_of(settings)}
    of_region: dict[str | None, set[str]] = {}
    for customer in customers:
        region = region_of.get(customer)
        of_region.setdefault(region, set()).update(lists[customer])
        assert lists[customer] <= allowed.get(str(region), everywhere)
    assert of_region["a"] - allowed["b"]
    assert of_region["b"] - allowed["a"]
    write_deltalake(where.uri, pa.table({"customer": customers, "region": ["a"] * len(customers)}), mode="overwrite")
    assert not recommend(settings, declared, [LAST]).skipped
