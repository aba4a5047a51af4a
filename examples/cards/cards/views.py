"""What is known of a customer and of a terminal at any moment: last night's state, and today's payments on top.

Whether a payment was a fraud is known a week later. A look-up is as of today: at midnight every label of the day eight
days ago is known, and not every one of the day after that. So windows over labels end there, no feature says what
nobody knew, and they change once a night.
"""

from typing import Literal

from cards.scoring import DAYS, LABEL_WINDOWS
from cards.sources import PAYMENTS
from forecache import FeatureView, Live, Publish, Where, Window

LABEL_DAYS = 7
"""Days until it is known whether a payment was a fraud."""
_SMALL = (Where("amount", "<=", 220),)
"""A larger payment is suspect at any terminal, and says nothing about this one."""

CUSTOMER = FeatureView(
    name="customer",
    description="Payments of a customer, up to this moment.",
    key=("customer_id",),
    sources=(PAYMENTS,),
    windows=(
        *(Window(f"payments_{days}d", "count", days) for days in DAYS),
        *(Window(f"mean_{days}d", "mean", days, "amount") for days in DAYS),
        Window("largest_30d", "max", 30, "amount"),
    ),
    publish=Publish(max_age_h=36, on_stale="flag"),
    live=Live(nights=3),
)


def _of_labels(name: str, aggregate: Literal["mean", "sum", "last"], days: int) -> Window:
    return Window(name, aggregate, days, "fraud", _SMALL, delay_days=LABEL_DAYS + 1)


TERMINAL = FeatureView(
    name="terminal",
    description="Payments at a terminal, up to this moment, and frauds among those that are a week old.",
    key=("terminal_id",),
    sources=(PAYMENTS,),
    windows=(
        *(Window(f"payments_{days}d", "count", days) for days in DAYS),
        *(_of_labels(f"fraud_share_{days}d", "mean", days) for days in LABEL_WINDOWS),
        *(_of_labels(f"frauds_{days}d", "sum", days) for days in LABEL_WINDOWS),
        _of_labels("last_was_fraud", "last", 30),
    ),
    publish=Publish(max_age_h=36, on_stale="flag"),
    live=Live(nights=3),
)
