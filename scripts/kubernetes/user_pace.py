"""A stream for the trial of the chart, in the project of examples/fraud: each payment updates its user's count."""

from collections.abc import Mapping
from typing import Any

from fraud.sources import PAYMENTS

from forecache import (
    FeatureView,
    FunctionModel,
    Live,
    LiveRows,
    Output,
    Pipeline,
    Publish,
    Stream,
    Table,
    Topic,
    Window,
)


def count_payments(features: Mapping[str, Any]) -> Any:
    return features["payments_30d"]


RECENT = FeatureView(
    name="recent",
    description="Payments of a user, up to this moment.",
    key=("user_id",),
    sources=(PAYMENTS,),
    windows=(Window("payments_30d", "count", 30), Window("most_30d", "max", 30, "amount")),
    publish=Publish(max_age_h=36, on_stale="flag"),
    live=Live(),
)
user_pace = Pipeline(
    name="user_pace",
    description="How often a user has paid within 30 days.",
    key=("user_id",),
    features=RECENT,
    model=FunctionModel(count_payments),
    outputs=(Output("pace", minimum=0.0),),
    publish=Publish(max_age_h=36, on_stale="flag"),
)
payments = Stream(
    name="payments",
    topic=Topic("payments", topic="payments", source=PAYMENTS, without=("fraud",)),
    views=(RECENT,),
    answers=user_pace,
    to=(Table(), LiveRows()),
    keep_features=True,
)
