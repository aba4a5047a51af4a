"""How likely a sale is a large one, learned from past sales that a function on Spark's frames makes requests of."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np

from forecache import (
    Baseline,
    Default,
    EstimatorModel,
    Examples,
    Feature,
    FeatureView,
    Gate,
    Lookup,
    Publish,
    Realtime,
    RequestField,
    Rows,
    Window,
)
from framed_project.pipelines.spend import SALES

RECENT = FeatureView(
    "recent",
    key=("customer",),
    sources=(SALES,),
    windows=(Window("spent_3d", "sum", 3, "amount"),),
    publish=Publish(max_row_change=None, max_psi=None, max_null_share=1.0),
)


def past_sales(rows: Mapping[str, Any], first: date, last: date) -> Any:
    """Each sale as a request of its day."""
    from pyspark.sql import functions as F

    return (
        rows["sales"]
        .where(F.col("day").between(first, last))
        .select(
            F.concat_ws("-", "day", "customer").alias("request_id"),
            F.col("day").cast("timestamp").alias("event_timestamp"),
            "customer",
            "amount",
            (F.col("amount") > 50).cast("double").alias("is_large"),
        )
    )


def features(rows: Rows) -> np.ndarray:
    return np.column_stack([rows["amount"], rows.feature("recent", "spent_3d")]).astype(np.float32)


def boosting() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=10, num_leaves=4, verbose=-1)


large = Realtime(
    name="large",
    request=(RequestField("customer", "bigint"), RequestField("amount", "double")),
    lookups=(Lookup(RECENT),),
    transform=features,
    features=(Feature("amount"), Feature("spent_3d")),
    model=EstimatorModel(boosting, patience=None),
    output="probability",
    fallbacks=(Default(0.5),),
    examples=Examples(
        (SALES,), past_sales, "is_large", "binary", train_days=5, validation_days=2, test_days=2, horizon_days=0
    ),
    gate=Gate("roc_auc", {"roc_auc": 0.9}, Baseline("spent_3d"), max_latency_ms=1e6),
)
