"""Returns: the probability that a customer orders again within seven days. Edit this file."""

from typing import Any

from forecache import (
    Baseline,
    Drift,
    EstimatorModel,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Training,
    expect,
)
from new_project.orders import ORDERS

CUSTOMER_SQL = """
    select
        customer,
        as_of,
        date_diff('day', max(event_day), as_of) as recency_days,
        count(*) filter (where event_day > as_of - interval 7 days) as orders_7d,
        count(*) filter (where event_day > as_of - interval 28 days) as orders_28d,
        avg(amount) as mean_amount
    from orders
    group by customer, as_of
"""
"""One row for each customer and as-of date, from the orders up to that date."""

RETURNED_SQL = """
    select customer, as_of, count(o.order_id) > 0 as returned
    from entities left join orders o using (customer, as_of)
    group by customer, as_of
"""
"""Whether the customer orders in the seven days after the as-of date: `orders` has only these days."""


def logistic_regression() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression())


returns = Pipeline(
    name="returns",
    description="Probability that a customer orders again within seven days.",
    key=("customer",),
    sources=(ORDERS,),
    features=Features(
        sql=CUSTOMER_SQL,
        columns=(
            Feature("recency_days", "Days since the last order."),
            Feature("orders_7d", "Orders of the last 7 days."),
            Feature("orders_28d", "Orders of the last 28 days."),
            Feature("mean_amount", "Mean amount of an order."),
        ),
        expectations=(expect("expect_column_values_to_be_between", column="recency_days", min_value=0),),
    ),
    label=Label(name="returned", kind="binary", horizon_days=7, sql=RETURNED_SQL),
    model=EstimatorModel(build=logistic_regression),
    training=Training(num_as_of=2, every_days=7),
    outputs=(Output("return_probability", minimum=0.0, maximum=1.0),),
    gate=Gate(
        metric="roc_auc",
        floors={"roc_auc": 0.6},
        baseline=Baseline(
            "recency_days", scale=-1, description="The longer ago the last order, the less likely another."
        ),
        max_latency_ms=100.0,
    ),
    drift=Drift(report_rows=0),  # rows of the HTML report on drift; 0: none is written
)
