"""Features of a customer as of the evening before, published for look-up."""

from forecache import FeatureView, Publish, Window
from new_project.orders import ORDERS

CUSTOMER = FeatureView(
    name="customer",
    description="Orders of a customer up to the as-of date.",
    key=("customer",),
    sources=(ORDERS,),
    windows=(
        Window("orders_28d", "count", 28, description="Orders of the last 28 days."),
        Window("mean_amount_28d", "mean", 28, "amount", description="Mean amount of an order."),
    ),
    publish=Publish(),
)
