"""From a payment to the model's features, and the rule that scores every user at night."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from forecache import Rows

FEATURES: Mapping[str, str] = {
    "amount": "Of the payment.",
    "times_mean": "The amount, of the user's mean of 30 days.",
    "times_most": "The amount, of the user's largest of 30 days.",
    "payments_30d": "Payments of the user.",
    "abroad": "1 where the payment comes from abroad.",
    "abroad_share": "Payments from abroad, of the user's.",
    "hour": "Of the day, UTC.",
}


def payment_features(rows: "Rows") -> NDArray[np.float32]:
    """float32 [1, len(FEATURES)]. What is not known of a new user is NaN, which the model takes as it is."""
    amount = rows["amount"].astype(np.float32)
    payments = rows.feature("spending", "payments_30d")
    minutes = (rows["paid_at"] - rows["paid_at"].astype("datetime64[D]")) // np.timedelta64(1, "m")
    columns = [
        amount,
        amount / rows.feature("spending", "mean_30d"),
        amount / rows.feature("spending", "most_30d"),
        payments,
        rows["country"] == "abroad",
        rows.feature("spending", "abroad_30d") / payments,
        minutes / 60,
    ]
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)


def usual_risk(features: Mapping[str, Any]) -> Any:
    """A user's risk whatever the payment: more where many of few payments come from abroad."""
    return 0.02 + 0.1 * features["abroad_30d"] / (features["payments_30d"] + 5)
