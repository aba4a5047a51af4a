"""Returns: the probability that a customer orders again within seven days. Edit this file."""

from typing import Any

from forecache import (
    Baseline,
    Drift,
    EstimatorModel,
    FeatureView,
    Gate,
    Label,
    Output,
    Pipeline,
    Training,
    Window,
)
from new_project.orders import ORDERS

CUSTOMER = FeatureView(
    name="customer",
    description="Orders of a customer up to the as-of date.",
    key=("customer",),
    sources=(ORDERS,),
    windows=(
        Window("orders_7d", "count", 7, description="Orders of the last 7 days."),
        Window("orders_28d", "count", 28, description="Orders of the last 28 days."),
        Window("spent_28d", "sum", 28, "amount", description="Spent in the last 28 days."),
        Window("mean_amount_28d", "mean", 28, "amount", description="Mean amount of an order."),
        Window("items_28d", "distinct", 28, "item", description="Different items."),
    ),
)

RETURNED_SQL = """
    select customer, as_of, count(o.order_id) > 0 as returned
    from entities left join orders o using (customer, as_of)
    group by customer, as_of
"""
"""Whether the customer orders in the seven days after the as-of date: `orders` has only these days."""


def gradient_boosting() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=100, learning_rate=0.05, num_leaves=7, min_child_samples=20, verbose=-1)


returns = Pipeline(
    name="returns",
    description="Probability that a customer orders again within seven days.",
    key=("customer",),
    features=CUSTOMER,
    label=Label(name="returned", kind="binary", horizon_days=7, sql=RETURNED_SQL),
    model=EstimatorModel(build=gradient_boosting, patience=10),
    training=Training(num_as_of=2, every_days=7),
    outputs=(Output("return_probability", minimum=0.0, maximum=1.0),),
    gate=Gate(
        metric="roc_auc",
        floors={"roc_auc": 0.6},
        baseline=Baseline("spent_28d", description="Who spent more comes back."),
        max_latency_ms=100.0,
    ),
    drift=Drift(report_rows=0),  # rows of the HTML report on drift; 0: none is written
)
