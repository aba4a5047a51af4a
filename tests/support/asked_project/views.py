"""What households and products have done of late, published for look-up."""

from asked_project import FIRST, LAST
from forecache.declare import Column, FeatureView, Publish, Source, Window

SALES = Source(
    name="sales",
    columns=(
        Column("household_id", "bigint", required=True),
        Column("product_id", "string", required=True),
        Column("spend", "double"),
        Column("day", "date"),
    ),
    event_time="day",
    start=FIRST,
    end=LAST,
)
household = FeatureView(
    name="household",
    key=("household_id",),
    sources=(SALES,),
    windows=(Window("spend_28d", "sum", 28, "spend"), Window("visits_28d", "count", 28)),
    publish=Publish(),
)
product = FeatureView(
    name="product",
    key=("product_id",),
    sources=(SALES,),
    windows=(Window("popularity", "count", 28),),
    publish=Publish(),
)
