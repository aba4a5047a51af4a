"""Every payment is answered by a model that looks up its customer and its terminal, up to the event before."""

import bench_payments
import numpy as np

from forecache.declare import Column, Feature, FeatureView, Publish, Window
from forecache.declare.features.live import Live
from forecache.declare.models.applied import RegisteredModel
from forecache.declare.realtime.lookups import Default, Lookup
from forecache.declare.realtime.realtime import Realtime
from forecache.declare.realtime.request import RequestField
from forecache.declare.realtime.request_rows import Rows
from forecache.declare.stream import LiveRows, Stream, Table

OPEN = Publish(max_row_change=None, max_psi=None, max_null_share=1.0, keep=2)

payments_source = bench_payments.payments_source(Column("channel", "string", required=False))


def view(name: str, *windows: Window) -> FeatureView:
    return FeatureView(
        name, (f"{name}_id",), (payments_source,), windows=windows, active_days=7, publish=OPEN, live=Live()
    )


customer = view(
    "customer",
    Window("payments_15m", "count", minutes=15),
    Window("spent_15m", "sum", minutes=15, column="amount"),
    Window("payments_1d", "count", days=1),
    Window("mean_1d", "mean", days=1, column="amount"),
    Window("payments_7d", "count", days=7),
    Window("mean_7d", "mean", days=7, column="amount"),
    Window("largest_7d", "max", days=7, column="amount"),
)
terminal = view(
    "terminal",
    Window("visits_15m", "count", minutes=15),
    Window("visits_1d", "count", days=1),
    Window("visits_7d", "count", days=7),
    Window("taken_7d", "sum", days=7, column="amount"),
)
FEATURES = ("amount", "hour", *customer.feature_names, *terminal.feature_names)


def features(rows: Rows) -> np.ndarray:
    """The payment's own two, the customer's seven, the terminal's four, float32 [n, 13]."""
    found = np.empty((len(rows), len(FEATURES)), np.float32)
    found[:, 0] = rows["amount"]
    found[:, 1] = (rows["at"] - rows["at"].astype("datetime64[D]")) / np.timedelta64(1, "h")
    found[:, 2:9] = rows.view("customer")
    found[:, 9:] = rows.view("terminal")
    return np.nan_to_num(found, copy=False)


fraud = Realtime(
    "fraud",
    request=(
        RequestField("customer_id", "bigint"),
        RequestField("terminal_id", "bigint"),
        RequestField("at", "timestamp"),
        RequestField("amount", "double"),
    ),
    lookups=(Lookup(customer), Lookup(terminal)),
    transform=features,
    features=tuple(map(Feature, FEATURES)),
    model=RegisteredModel("models:/fraud@champion"),
    fallbacks=(Default(0.0),),
)
scored = Stream(
    "scored",
    topic=bench_payments.payments_topic(payments_source),
    views=(customer, terminal),
    answers=fraud,
    to=(Table(), LiveRows(keep_h=24)),
    engine=bench_payments.ENGINE,
    freshness=bench_payments.FRESHNESS,
    keep_features=bench_payments.KEEP_FEATURES,
)
