"""What a customer spends in the next two days, by a trained model and by a rule."""

from datetime import date
from typing import Any

from forecache.declare import (
    Baseline,
    Column,
    EstimatorModel,
    Feature,
    Features,
    FeatureView,
    FunctionModel,
    Gate,
    Label,
    Output,
    Pipeline,
    Publish,
    Schedule,
    Source,
    Training,
    Window,
)
from planned_project.parameters import tree_parameters
from planned_project.rules import expected

SALES = Source(
    name="sales",
    columns=(
        Column("customer", "bigint"),
        Column("day", "date"),
        Column("amount", "double", minimum=0.0),
    ),
    event_time="day",
    start=date(2026, 1, 1),
    end=date(2026, 1, 20),
)
CUSTOMER = FeatureView(
    "customer",
    key=("customer",),
    sources=(SALES,),
    windows=(
        Window("spent_1d", "sum", 1, "amount"),
        Window("spent_7d", "sum", 7, "amount"),
    ),
)
TEMPO = FeatureView(
    "tempo",
    key=("customer",),
    sources=(SALES,),
    windows=(Window("spent_2d", "sum", 2, "amount"),),
)
HABITS = FeatureView(
    "habits",
    key=("customer",),
    sources=(SALES,),
    features=Features(
        columns=(Feature("purchases"), Feature("most")),
        sql="SELECT customer, as_of, count(*) AS purchases, max(amount) AS most FROM sales GROUP BY customer, as_of",
    ),
)


def boosting() -> Any:
    from lightgbm import LGBMRegressor

    return LGBMRegressor(**tree_parameters())


spend = Pipeline(
    name="spend",
    key=("customer",),
    features=(CUSTOMER, HABITS),
    label=Label(
        name="next",
        kind="regression",
        horizon_days=2,
        sql="SELECT customer, as_of, sum(amount) AS next FROM sales GROUP BY customer, as_of",
    ),
    model=EstimatorModel(build=boosting),
    training=Training(num_as_of=3, every_days=1),
    outputs=(Output("next_spend", minimum=-1e6, maximum=1e6),),
    gate=Gate(
        "mae",
        floors={"mae": 1e6},
        baseline=Baseline("spent_7d"),
        baseline_margin=-1e6,
        max_latency_ms=1e6,
        max_regression=1e6,
    ),
    schedule=Schedule(cron="0 5 * * *"),
    publish=Publish(max_psi=None),
)
rule = Pipeline(
    name="rule",
    key=("customer",),
    features=(TEMPO,),
    model=FunctionModel(expected),
    outputs=(Output("expected_spend"),),
    publish=Publish(max_psi=None),
)
