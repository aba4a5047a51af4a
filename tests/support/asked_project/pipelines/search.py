"""Products in the order in which a household will like them: trained on what was taken."""

from typing import Any

from asked_project import transforms
from asked_project.views import SALES, household, product
from forecache.declare import (
    Baseline,
    Candidates,
    DotProduct,
    EstimatorModel,
    Examples,
    Feature,
    Gate,
    Lookup,
    OrderGiven,
    Precomputed,
    Realtime,
    RequestField,
    Stored,
)


def nothing(*_: Any) -> Any:
    raise NotImplementedError("the tests write the training set themselves")


search = Realtime(
    name="search",
    request=(RequestField("household_id", "bigint"),),
    candidates=Candidates((RequestField("product_id", "string"), RequestField("price", "double", default=1.0))),
    lookups=(Lookup(household), Lookup(product)),
    transform=transforms.ranked,
    features=(Feature("spend"), Feature("popularity"), Feature("price_log")),
    model=EstimatorModel(nothing),
    examples=Examples((SALES,), nothing, label="taken", kind="ranking"),
    gate=Gate(
        "ndcg@10", {"ndcg@10": 0.2}, baseline=(Baseline("price_log"),), max_regression=0.2, max_latency_ms=1000.0
    ),
    fallbacks=(
        DotProduct(
            Stored("household", ("household_id",), "spend_28d"), Stored("product", ("product_id",), "popularity")
        ),
        Precomputed(Stored("product", ("product_id",), "popularity")),
        OrderGiven(),
    ),
)
