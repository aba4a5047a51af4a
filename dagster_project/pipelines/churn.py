"""Churn: the probability that a customer buys nothing in the 90 days after tonight.

Copy this file to add a pipeline: everything that is particular to churn is here, and nothing else.
"""

from typing import TYPE_CHECKING

from dagster_project.purchases import CUSTOMER
from forecache import (
    Baseline,
    Gate,
    Label,
    Output,
    Pipeline,
    Publish,
    Retraining,
    Segment,
    TorchModel,
    Training,
)

if TYPE_CHECKING:
    from torch import nn


def network(num_features: int) -> "nn.Module":
    """Two hidden layers; more did not help on 23,570 customers."""
    from torch import nn

    return nn.Sequential(
        nn.Linear(num_features, 64),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )


churn = Pipeline(
    name="churn",
    description="Probability that a customer buys nothing in the next 90 days, every night for every customer.",
    key=("customer_id",),
    features=CUSTOMER,
    label=Label(
        name="churned",
        kind="binary",
        horizon_days=90,
        sql="""
            select e.customer_id, e.as_of, count(p.customer_id) = 0 as churned
            from entities e left join purchases p using (customer_id, as_of)
            group by all
        """,
    ),
    model=TorchModel(build=network),
    training=Training(num_as_of=5, every_days=30, epochs=30, batch_size=4096, learning_rate=0.004),
    outputs=(Output("churn_probability", minimum=0.0, maximum=1.0, description="Of no purchase in the next 90 days."),),
    segments=(
        Segment(
            "risk_segment",
            of="churn_probability",
            bounds=(0.5, 0.8, 0.95),
            labels=("low", "medium", "high", "lost"),
            description="Whom to leave alone, whom to win back, and whom to let go.",
        ),
    ),
    gate=Gate(
        metric="roc_auc",
        floors={"roc_auc": 0.75},
        baseline=Baseline("recency_days", description="The longer ago the last purchase, the likelier the churn."),
        baseline_margin=0.005,
    ),
    publish=Publish(max_age_h=36, on_stale="flag"),
    # All of these customers came in one quarter: their tenure grows with every night.
    retraining=Retraining(ignore=("tenure_days",)),
)
