"""Returns: a model that is registered in MLflow, applied to every customer each night. Edit this file."""

from forecache import FeatureView, Output, Pipeline, RegisteredModel, Window
from new_project.orders import ORDERS

CUSTOMER = FeatureView(
    name="customer",
    description="Orders of a customer up to the as-of date.",
    key=("customer",),
    sources=(ORDERS,),
    windows=(
        Window("orders_7d", "count", 7, description="Orders of the last 7 days."),
        Window("orders_28d", "count", 28, description="Orders of the last 28 days."),
        Window("spent_28d", "sum", 28, "amount", description="Spent in the last 28 days."),
    ),
)

returns = Pipeline(
    name="returns",
    description="Probability that a customer orders again within seven days.",
    key=("customer",),
    features=CUSTOMER,
    # Its alias is resolved again in each run. `predict_proba` returns two values, of which the second is taken.
    model=RegisteredModel("models:/returns_model@production", returns={"return_probability": "prediction[1]"}),
    outputs=(Output("return_probability", minimum=0.0, maximum=1.0),),
)
