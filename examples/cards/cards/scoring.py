"""From a payment to the model's features."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from forecache import Rows

DAYS = (1, 7, 30)
LABEL_WINDOWS = (1, 3, 7, 14, 21, 28)
"""Days of the windows over labels: a terminal is compromised for some weeks, and then no more."""
_MONDAY, _SATURDAY = 3, 5  # 1970-01-01 was the third day after a Monday

FEATURES: Mapping[str, str] = {
    "amount": "Of the payment.",
    "weekend": "1 on Saturday and Sunday, UTC.",
    "night": "1 before seven o'clock, UTC.",
    **{f"customer_payments_{days}d": "Payments of the customer before this one." for days in DAYS},
    **{f"customer_mean_{days}d": "Their mean amount." for days in DAYS},
    **{f"times_mean_{days}d": "The amount, of that mean." for days in DAYS},
    "customer_largest_30d": "Largest amount of the customer before.",
    "times_largest_30d": "The amount, of that one.",
    **{f"terminal_payments_{days}d": "Payments at the terminal before this one." for days in DAYS},
    **{
        f"terminal_fraud_share_{days}d": "Frauds among payments at the terminal, a week late." for days in LABEL_WINDOWS
    },
    **{f"terminal_frauds_{days}d": "How many these were." for days in LABEL_WINDOWS},
    "terminal_last_was_fraud": "1 where the newest payment at the terminal whose label is known was a fraud.",
}


def payment_features(rows: "Rows") -> NDArray[np.float32]:
    """float32 [1, len(FEATURES)]. What is not known of a new customer or terminal is NaN; its counts are 0."""
    day = rows["paid_at"].astype("datetime64[D]")
    hour = (rows["paid_at"] - day) // np.timedelta64(1, "h")
    amount = rows["amount"].astype(np.float32)
    customer, terminal = (partial(rows.feature, view) for view in ("customer", "terminal"))
    means, largest = [customer(f"mean_{days}d") for days in DAYS], customer("largest_30d")
    columns = [amount, (day.astype(np.int64) + _MONDAY) % 7 >= _SATURDAY, hour <= 6]
    columns += [np.nan_to_num(customer(f"payments_{days}d")) for days in DAYS]
    columns += [*means, *(amount / mean for mean in means), largest, amount / largest]
    columns += [np.nan_to_num(terminal(f"payments_{days}d")) for days in DAYS]
    columns += [terminal(f"fraud_share_{days}d") for days in LABEL_WINDOWS]
    columns += [np.nan_to_num(terminal(f"frauds_{days}d")) for days in LABEL_WINDOWS]
    columns.append(terminal("last_was_fraud"))
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)
