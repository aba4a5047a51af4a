"""Thirty pipelines on the demo's feature view, whose models are expressions."""

from dagster_project.purchases import CUSTOMER
from forecache.declare import Drift, Output, Pipeline, Publish, SqlModel

PIPELINES = 30
ALL = [
    Pipeline(
        name=f"rule{number:02}",
        key=("customer_id",),
        features=CUSTOMER,
        model=SqlModel(f"recency_days / ({number} + 100.0)"),
        outputs=(Output("value"),),
        drift=Drift(report_rows=0),
        publish=Publish(max_psi=None),
    )
    for number in range(PIPELINES)
]
globals().update({each.name: each for each in ALL})
