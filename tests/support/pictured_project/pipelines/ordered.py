"""Products in an order: `ranking` is rolled out in steps, and answers of `search` are computed again."""

from typing import Any

from asked_project.views import SALES, household, product
from ranking_code import transforms
from release_support import FEATURES

from forecache.declare import (
    Baseline,
    Candidates,
    EstimatorModel,
    Examples,
    Feature,
    Gate,
    Guards,
    Log,
    Lookup,
    OrderGiven,
    Realtime,
    RequestField,
    Rollout,
)

STEPS = Rollout(shares=(0.05, 0.2, 0.5), guards=Guards(slow_ms=20.0))


def _unused(*_: Any) -> Any:
    raise NotImplementedError("the pictures need no training")


def _declared(name: str, rollout: Rollout | None = None) -> Realtime:
    return Realtime(
        name=name,
        request=(RequestField("household_id", "bigint"),),
        candidates=Candidates((RequestField("product_id", "string"), RequestField("price", "double", default=1.0))),
        lookups=(Lookup(household), Lookup(product)),
        transform=transforms.rank,
        features=tuple(map(Feature, FEATURES)),
        model=EstimatorModel(_unused),
        fallbacks=(OrderGiven(),),
        examples=Examples((SALES,), _unused, label="taken", kind="ranking"),
        gate=Gate("ndcg@5", {"ndcg@5": 0.3}, baseline=Baseline("spend")),
        log=Log("household_id"),
        rollout=rollout,
    )


ranking = _declared("ranking", STEPS)
search = _declared("search")
