"""A function that returns an output of every kind there is, from two features."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np

from forecache.declare import (
    Boolean,
    Classes,
    Column,
    Feature,
    Features,
    FunctionModel,
    Output,
    Pipeline,
    Quantiles,
    Segment,
    Source,
    Structs,
    Text,
    Vector,
)

WIDTH = 3


def every_kind(features: Mapping[str, Any]) -> Mapping[str, Any]:
    a, b = np.nan_to_num(features["a"]), np.nan_to_num(features["b"])
    pull = np.exp(np.column_stack([a, b, a * 0]) / 4)
    items = np.empty(len(a), object)
    for i, (one, other) in enumerate(zip(a, b, strict=True)):
        items[i] = [{"item": f"i{int(abs(one) * 10) % 7}", "score": float(other), "seen": bool(one > 0)}] * (i % 1 + 1)
    return {
        "score": a + b,
        "other": a - b,
        "plan": pull / pull.sum(axis=1, keepdims=True),
        "best": np.where(a > b, "left", "right").astype(object),
        "spend": np.column_stack([a, b, (a + b) / 2]),
        "embedding": np.column_stack([a, b, a * b]).astype(np.float32),
        "note": np.array([f'{one:.1f}\t"{other:.1f}"' for one, other in zip(a, b, strict=True)], object),
        "likes": a > b,
        "items": items,
    }


def unused(*arguments: object) -> None:
    raise AssertionError("the tests write the features themselves")


every = Pipeline(
    name="every",
    key=("user_id",),
    sources=(Source("calls", (Column("user_id", "string"), Column("day", "date")), "day", start=date(2024, 1, 1)),),
    features=Features(compute=unused, columns=(Feature("a"), Feature("b"))),
    model=FunctionModel(every_kind),
    outputs=(
        Output("score"),
        Output("other"),
        Classes("plan", ("basic", "gold", "trial"), probabilities=2),
        Classes("best", probabilities=0),
        Quantiles("spend", (0.05, 0.5, 0.975)),
        Vector("embedding", WIDTH),
        Text("note"),
        Boolean("likes"),
        Structs("items", (("item", "string"), ("score", "double"), ("seen", "boolean"))),
    ),
    segments=(Segment("band", "spend_q50", (0.0,), ("below", "above")),),
)
