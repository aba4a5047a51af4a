"""A ranking without the project of one: requests, each with offers, of which some were taken."""

from datetime import date
from typing import Any

import numpy as np

from forecache.inference.encoding import encoding_of
from forecache.pipeline import (
    Baseline,
    Column,
    EstimatorModel,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Source,
)
from forecache.registry.gate.examples import Examples

SHOWN = Source(
    name="shown",
    columns=(Column("request_id", "string"), Column("position", "int"), Column("day", "date")),
    event_time="day",
    start=date(2024, 1, 1),
)


def nothing(*_: Any) -> Any:
    raise NotImplementedError("the tests write the rows themselves")


def ranker() -> Any:
    import lightgbm

    return lightgbm.LGBMRanker(n_estimators=60, num_leaves=7, min_child_samples=5, verbose=-1)


offers = Pipeline(
    name="offers",
    key=("request_id", "position"),
    sources=(SHOWN,),
    features=Features((Feature("taste"), Feature("popularity"), Feature("price")), nothing),
    label=Label("taken", "ranking", 1, nothing),
    model=EstimatorModel(ranker),
    outputs=(Output("score"),),
    gate=Gate("ndcg@10", {"ndcg@10": 0.4}, baseline=(Baseline("popularity"), Baseline("price", scale=-1.0))),
    publish=None,
)


def requests(num: int, seed: int = 5) -> Examples:
    """Requests of 2 to 20 offers; the better the taste and the popularity together, the likelier one is taken."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 21, num)
    features = rng.normal(size=(int(sizes.sum()), 3)).astype(np.float32)
    chance = 1 / (1 + np.exp(2.5 - 2 * features[:, 0] - features[:, 1]))
    label = (rng.random(len(features)) < chance).astype(np.float64)
    days = (date(2024, 3, 1),) * len(features)
    return Examples(features, label, days, encoding_of(offers.feature_columns, {}), sizes=sizes.astype(np.int64))
