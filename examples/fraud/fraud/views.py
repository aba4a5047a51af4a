"""What is known of a user on the evening before."""

from forecache import FeatureView, Publish, Where, Window
from fraud.sources import PAYMENTS

SPENDING = FeatureView(
    name="spending",
    description="Payments of a user.",
    key=("user_id",),
    sources=(PAYMENTS,),
    windows=(
        Window("payments_30d", "count", 30),
        Window("mean_30d", "mean", 30, "amount"),
        Window("most_30d", "max", 30, "amount"),
        Window("abroad_30d", "count", 30, where=(Where("country", "==", "abroad"),)),
    ),
    publish=Publish(max_age_h=36, on_stale="flag"),
)
