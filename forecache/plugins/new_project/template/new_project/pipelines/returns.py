"""Returns: the probability that a visitor comes back within seven days. Edit this file."""

from collections.abc import Mapping
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


def visit_features(events: Mapping[str, Any]) -> Any:
    """One row for each visitor and as-of date. The events of an as-of date are those up to that date."""
    from pyspark.sql import functions as F

    visits = events["visits"].withColumn("age", F.datediff("as_of", "event_day"))
    return visits.groupBy("visitor", "as_of").agg(
        F.min("age").alias("recency_days"),
        F.sum(F.when(F.col("age") < 7, 1).otherwise(0)).alias("visits_7d"),
        F.sum(F.when(F.col("age") < 28, 1).otherwise(0)).alias("visits_28d"),
        F.avg("pages").alias("mean_pages"),
    )


def returned(entities: Any, events: Mapping[str, Any]) -> Any:
    """1.0 if the visitor came in the seven days after the as-of date; `events` has only these days."""
    from pyspark.sql import functions as F

    came = events["visits"].select("visitor", "as_of").distinct().withColumn("came", F.lit(1.0))
    labelled = entities.join(came, ["visitor", "as_of"], "left")
    return labelled.select("visitor", "as_of", F.coalesce("came", F.lit(0.0)).alias("returned"))


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
        compute=visit_features,
        columns=(
            Feature("recency_days", "Days since the last visit."),
            Feature("visits_7d", "Visits in the last 7 days."),
            Feature("visits_28d", "Visits in the last 28 days."),
            Feature("mean_pages", "Mean pages of a visit."),
        ),
        expectations=(expect("expect_column_values_to_be_between", column="recency_days", min_value=0),),
    ),
    label=Label(name="returned", kind="binary", horizon_days=7, compute=returned),
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
