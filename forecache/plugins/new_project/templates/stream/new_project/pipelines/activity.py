"""Activity: orders of a customer up to this moment, last night's state and today's events on top. Edit this file."""

from forecache import FeatureView, Json, Live, Publish, Stream, Topic, Window
from new_project.orders import ORDERS

activity = FeatureView(
    name="activity",
    description="Orders of a customer up to this moment.",
    key=("customer",),
    sources=(ORDERS,),
    windows=(
        Window("orders_60m", "count", minutes=60, description="Orders of the last hour."),
        Window("orders_7d", "count", 7, description="Orders of the last 7 days."),
        Window("spent_7d", "sum", 7, "amount", description="Spent in the last 7 days."),
        Window("mean_amount_28d", "mean", 28, "amount", description="Mean amount of an order."),
    ),
    publish=Publish(),
    live=Live(),
)

AS_THEY_HAPPEN = Topic(name="orders_topic", topic="orders", source=ORDERS, format=Json())

order_stream = Stream(
    name="order_stream",
    description="Orders as they happen; the same rows land as the day's file.",
    topic=AS_THEY_HAPPEN,
    views=(activity,),
)
