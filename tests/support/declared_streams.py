"""A stream of card payments with all that one can declare, for tests that change it."""

from typing import Any

from live_view_sample import PAYMENTS, VIEW

from forecache.declare import (
    Default,
    Feature,
    FeatureView,
    FunctionModel,
    Live,
    LiveRows,
    Lookup,
    Output,
    Pipeline,
    Publish,
    Realtime,
    RequestField,
    Stream,
    Table,
    Topic,
    Window,
)


def check(rows: Any) -> Any:
    return rows


TOPIC = Topic("payments", topic="payments.v1", source=PAYMENTS, without=("fraud",))
CHECK = Realtime(
    "check",
    request=(RequestField("card", "bigint"), RequestField("amount", "double", default=0.0)),
    lookups=(Lookup(VIEW),),
    transform=check,
    features=(Feature("score"),),
    model=FunctionModel(check),
    fallbacks=(Default(0.5),),
)
SPENT = Pipeline(
    "spender", ("card",), VIEW, FunctionModel(check), outputs=(Output("spend"),), sources=(PAYMENTS,)
)  # fmt: skip
STREAM = Stream("cards", topic=TOPIC, views=(VIEW,), answers=CHECK, to=(Table(), LiveRows()))


def view(*windows: Window, **declared: Any) -> FeatureView:
    given = {"publish": Publish(), "live": Live(), **declared}
    return FeatureView("v", ("card",), (PAYMENTS,), windows=windows or (Window("n", "count", 2),), **given)
