"""Spend: the dollars that a customer will spend in the 90 days after tonight."""

from typing import Any

from dagster_project.purchases import CUSTOMER
from forecache import (
    Baseline,
    EstimatorModel,
    Gate,
    Label,
    Output,
    Pipeline,
    Publish,
    Training,
)


def tweedie_trees() -> Any:
    """Boosted trees that fit the mean of a number that is mostly 0: 86 in 100 customers spend nothing.

    An absolute error fits the median, which is 0 for nearly everybody: no ranking, and no sum.
    """
    from lightgbm import LGBMRegressor

    return LGBMRegressor(
        objective="tweedie",
        tweedie_variance_power=1.3,
        n_estimators=600,
        learning_rate=0.03,
        num_leaves=15,
        min_child_samples=200,
        verbose=-1,
    )


spend = Pipeline(
    name="spend",
    description="Dollars that a customer will spend in the next 90 days.",
    key=("customer_id",),
    features=CUSTOMER,
    label=Label(
        name="spent_90d",
        kind="regression",
        horizon_days=90,
        sql="""
            select e.customer_id, e.as_of, coalesce(sum(p.amount), 0.0) as spent_90d
            from entities e left join purchases p using (customer_id, as_of)
            group by all
        """,
    ),
    model=EstimatorModel(build=tweedie_trees),
    # Four dates: before a fifth, the history is shorter than the 180 days that the features look back.
    training=Training(num_as_of=4, every_days=30, refit=True),
    outputs=(Output("expected_spend", minimum=0.0, description="US dollars in the next 90 days, on average."),),
    gate=Gate(
        metric="top_decile",
        floors={"top_decile": 0.6, "r2": 0.4},
        baseline=Baseline("amount_180d", scale=0.25, description="A quarter of what the last 180 days brought."),
        not_worse_than_baseline=("gini",),
    ),
    publish=Publish(max_age_h=36, max_psi=None),
)
