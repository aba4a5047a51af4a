"""What is known of a customer and of a terminal at any moment: last night's state, and today's payments on top.

Whether a payment was a fraud is known a week later. A look-up is as of today: at midnight every label of the day eight
days ago is known, and not every one of the day after that. So windows over labels end there, no feature says what
nobody knew, and they change once a night.
"""

from cards.sources import PAYMENTS
from forecache.pipeline import FeatureView, Live, Publish, Window

LABEL_DAYS = 7
"""Days until it is known whether a payment was a fraud."""
_DAYS = (1, 7, 30)

CUSTOMER = FeatureView(
    name="customer",
    description="Payments of a customer, up to this moment.",
    key=("customer_id",),
    sources=(PAYMENTS,),
    windows=(
        *(Window(f"payments_{days}d", "count", days) for days in _DAYS),
        *(Window(f"mean_{days}d", "mean", days, "amount") for days in _DAYS),
    ),
    publish=Publish(max_age_h=36, on_stale="flag"),
    live=Live(nights=2),
)

TERMINAL = FeatureView(
    name="terminal",
    description="Payments at a terminal, up to this moment, and the share of frauds among those that are a week old.",
    key=("terminal_id",),
    sources=(PAYMENTS,),
    windows=(
        *(Window(f"payments_{days}d", "count", days) for days in _DAYS),
        *(Window(f"fraud_share_{days}d", "mean", days, "fraud", delay_days=LABEL_DAYS + 1) for days in _DAYS),
    ),
    publish=Publish(max_age_h=36, on_stale="flag"),
    live=Live(nights=2),
)
