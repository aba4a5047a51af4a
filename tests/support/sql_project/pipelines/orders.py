"""What a customer spends the next day: features of two views, entities and the label are SQL."""

from datetime import date
from typing import Any

from forecache.declare import (
    Baseline,
    Column,
    Drift,
    Entities,
    EstimatorModel,
    Feature,
    Features,
    FeatureView,
    Gate,
    Label,
    Output,
    Pipeline,
    Publish,
    Snapshot,
    Source,
    Static,
    Training,
)

START = date(2026, 1, 1)
ORDERS = Source(
    "orders",
    (
        Column("customer", "string"),
        Column("at", "timestamp"),
        Column("amount", "double", required=False),
        Column("pieces", "int", required=False),
    ),
    "at",
    start=START,
)
CUSTOMERS = Source(
    "customers",
    (Column("customer", "string"), Column("region", "string"), Column("since", "date")),
    start=START,
    time=Snapshot(),
    key=("customer",),
    missing="last",
)
REGIONS = Source(
    "regions", (Column("region", "string"), Column("weight", "bigint")), start=START, time=Static(), key=("region",)
)
CUSTOMER = FeatureView(
    "customer",
    ("customer",),
    (ORDERS,),
    Features(
        columns=(
            Feature("orders", type="integer"),
            Feature("spent_3d"),
            Feature("mean_pieces"),
            Feature("last_amount"),
            Feature("days_since"),
            Feature("kind", type="category", categories=("often", "seldom")),
        ),
        sql="""
            select
                customer,
                as_of,
                count(*) as orders,
                sum(amount) filter (where event_day > as_of - interval 3 days) as spent_3d,
                avg(pieces) as mean_pieces,
                arg_max(amount, at) as last_amount,
                date_diff('day', max(event_day), as_of) as days_since,
                case when count(*) >= 5 then 'often' else 'seldom' end as kind
            from orders
            group by customer, as_of
        """,
    ),
)
REGION = FeatureView(
    "region",
    ("region",),
    (CUSTOMERS, REGIONS),
    Features(
        columns=(Feature("customers"), Feature("weight", type="integer"), Feature("mean_age_days")),
        sql="""
            with members as (
                select region, as_of, count(*) as customers, avg(as_of - since) as mean_age_days
                from customers
                group by all
            )
            select m.region, m.as_of, m.customers, m.mean_age_days, r.weight
            from members m left join regions r using (region, as_of)
        """,
    ),
)


def boosting() -> Any:
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=20, min_child_samples=2, verbose=-1)


orders = Pipeline(
    name="orders",
    key=("customer",),
    features=(CUSTOMER, REGION),
    entities=Entities(sql="select customer, region, as_of from customers", sources=(CUSTOMERS,), columns=("region",)),
    sources=(ORDERS,),
    label=Label(
        name="next_spend",
        kind="regression",
        horizon_days=1,
        sql="""
            select e.customer, e.as_of, coalesce(sum(o.amount), 0) as next_spend
            from entities e left join orders o using (customer, as_of)
            group by all
        """,
    ),
    model=EstimatorModel(build=boosting),
    training=Training(num_as_of=1, every_days=1),
    outputs=(Output("expected_spend"),),
    gate=Gate("mae", floors={"mae": 1e6}, baseline=Baseline("orders"), baseline_margin=-1e6, max_latency_ms=1e6),
    publish=Publish(max_psi=None),
    drift=Drift(report_rows=0),
)
