"""Returns: the probability that a visitor comes back within seven days. Edit this file."""

from datetime import date
from typing import Any

from forecache import (
    Baseline,
    Column,
    Drift,
    EstimatorModel,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Source,
    Training,
    expect,
)

VISITS = Source(
    name="visits",
    description="Visits, one file a day.",
    columns=(
        Column("visitor", "string"),
        Column("day", "date"),
        Column("pages", "int", minimum=1, description="Pages that were looked at."),
    ),
    event_time="day",
    start=date(2026, 1, 1),
    end=date(2026, 2, 28),  # the demo's data end here; remove this if files keep arriving
)


VISIT_SQL = """
    select
        visitor,
        as_of,
        date_diff('day', max(event_day), as_of) as recency_days,
        count(*) filter (where event_day > as_of - interval 7 days) as visits_7d,
        count(*) filter (where event_day > as_of - interval 28 days) as visits_28d,
        avg(pages) as mean_pages
    from visits
    group by visitor, as_of
"""
"""One row for each visitor and as-of date, from the visits up to that date."""

RETURNED_SQL = """
    select visitor, as_of, count(v.day) > 0 as returned
    from entities left join visits v using (visitor, as_of)
    group by visitor, as_of
"""
"""Whether the visitor came in the seven days after the as-of date: `visits` has only these days."""


def logistic_regression() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression())


returns = Pipeline(
    name="returns",
    description="Probability that a visitor comes back within seven days.",
    key=("visitor",),
    sources=(VISITS,),
    features=Features(
        sql=VISIT_SQL,
        columns=(
            Feature("recency_days", "Days since the last visit."),
            Feature("visits_7d", "Visits in the last 7 days."),
            Feature("visits_28d", "Visits in the last 28 days."),
            Feature("mean_pages", "Mean pages of a visit."),
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
            "recency_days", scale=-1, description="The longer ago the last visit, the less likely another."
        ),
        max_latency_ms=100.0,
    ),
    drift=Drift(report_rows=0),  # without this line every nightly run writes an HTML drift report, which takes a while
)
