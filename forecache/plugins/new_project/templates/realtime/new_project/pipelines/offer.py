"""Offer: how likely a customer accepts an offer, asked while the customer waits. Edit this file.

The model is a rule. A trained one is declared by `model=EstimatorModel(...)`, `examples=Examples(...)` and a gate:
past requests are then computed by a function on Spark's frames, which needs the extra `spark` and Java.
"""

from forecache import (
    Default,
    Feature,
    FunctionModel,
    Lookup,
    Output,
    Pipeline,
    Precomputed,
    Realtime,
    RequestField,
    SqlModel,
    Stored,
)
from new_project.scoring import accepts, basket_features
from new_project.views import CUSTOMER

loyalty = Pipeline(
    name="loyalty",
    description="How loyal each customer is, every night: it answers if the model cannot.",
    key=("customer",),
    features=CUSTOMER,
    model=SqlModel("orders_28d / (orders_28d + 4.0)"),
    outputs=(Output("loyalty", minimum=0.0, maximum=1.0),),
)

offer = Realtime(
    name="offer",
    description="How likely a customer accepts an offer with the basket as it is.",
    request=(RequestField("customer", "string"), RequestField("basket", "double")),
    lookups=(Lookup(CUSTOMER),),
    transform=basket_features,
    features=(
        Feature("orders_28d", "Orders of the last 28 days."),
        Feature("basket_of_usual", "The basket's amount, in usual amounts of the customer."),
    ),
    model=FunctionModel(accepts),
    output="acceptance",
    fallbacks=(Precomputed(Stored("loyalty", ("customer",), "loyalty")), Default(0.2)),
    deadline_ms=30.0,
)
