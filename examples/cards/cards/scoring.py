"""From a payment to the model's features."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from forecache.pipeline import Rows

_DAYS = (1, 7, 30)
_MONDAY, _SATURDAY = 3, 5  # 1970-01-01 was the third day after a Monday

FEATURES: Mapping[str, str] = {
    "amount": "Of the payment.",
    "weekend": "1 on Saturday and Sunday, UTC.",
    "night": "1 before seven o'clock, UTC.",
    **{f"customer_payments_{days}d": "Payments of the customer before this one." for days in _DAYS},
    **{f"customer_mean_{days}d": "Their mean amount." for days in _DAYS},
    **{f"times_mean_{days}d": "The amount, of that mean." for days in _DAYS},
    **{f"terminal_payments_{days}d": "Payments at the terminal before this one." for days in _DAYS},
    **{f"terminal_fraud_share_{days}d": "Frauds among payments at the terminal, a week late." for days in _DAYS},
}


def payment_features(rows: "Rows") -> NDArray[np.float32]:
    """float32 [1, len(FEATURES)]. What is not known of a new customer or terminal is NaN; its counts are 0."""
    day = rows["paid_at"].astype("datetime64[D]")
    hour = (rows["paid_at"] - day) // np.timedelta64(1, "h")
    amount = rows["amount"].astype(np.float32)
    columns = [amount, (day.astype(np.int64) + _MONDAY) % 7 >= _SATURDAY, hour <= 6]
    columns += [np.nan_to_num(rows.feature("customer", f"payments_{days}d")) for days in _DAYS]
    means = [rows.feature("customer", f"mean_{days}d") for days in _DAYS]
    columns += [*means, *(amount / mean for mean in means)]
    columns += [np.nan_to_num(rows.feature("terminal", f"payments_{days}d")) for days in _DAYS]
    columns += [rows.feature("terminal", f"fraud_share_{days}d") for days in _DAYS]
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)
