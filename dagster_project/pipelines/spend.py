"""Spend: the dollars that a customer will spend in the 90 days after tonight."""

from typing import TYPE_CHECKING

from dagster_project.purchases import CUSTOMER
from forecache import (
    Baseline,
    Gate,
    Label,
    Output,
    Pipeline,
    Publish,
    TorchModel,
    Training,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


def network(num_features: int) -> "nn.Module":
    from torch import nn

    return nn.Sequential(nn.Linear(num_features, 32), nn.ReLU(), nn.Linear(32, 1), nn.Softplus())


def absolute_error(output: "Tensor", target: "Tensor") -> "Tensor":
    """Fits the median, so that a few large orders do not decide what everybody is expected to spend."""
    from torch.nn.functional import l1_loss

    return l1_loss(output, target)


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
    model=TorchModel(build=network, loss=absolute_error),
    training=Training(num_as_of=5, every_days=30, epochs=20, batch_size=4096, learning_rate=0.004),
    outputs=(Output("expected_spend", minimum=0.0, description="US dollars in the next 90 days, at the median."),),
    gate=Gate(
        metric="mae",
        floors={"mae": 8.9},
        baseline=Baseline("amount_180d", scale=0.25, description="A quarter of what the last 180 days brought."),
    ),
    publish=Publish(max_age_h=36, max_psi=None),
)
