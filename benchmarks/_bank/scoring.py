"""From a payment to the model's features, and the rules that score every user at night."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from forecache import Rows

FEATURES = ("amount", "times_mean", "payments_14d", "abroad")


def payment_features(rows: "Rows") -> NDArray[np.float32]:
    """float32 [1, len(FEATURES)]. What is not known of a new user is NaN, which the model takes as it is."""
    amount = rows["amount"].astype(np.float32)
    columns = [
        amount,
        amount / rows.feature("spending", "mean_14d"),
        rows.feature("spending", "payments_14d"),
        rows["country"] == "abroad",
    ]
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)


def usual_risk(features: Mapping[str, Any]) -> Any:
    """A user's risk whatever the payment."""
    return 0.02 + 0.1 * features["abroad_14d"] / (features["payments_14d"] + 5)


def usual_share(features: Mapping[str, Any]) -> Any:
    """The share of a user's payments that come from abroad."""
    return features["abroad_14d"] / (features["payments_14d"] + 1)
