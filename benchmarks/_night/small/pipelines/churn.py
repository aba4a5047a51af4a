"""The demo's churn, of twelve windows instead of a query, and of LightGBM instead of torch."""

from dataclasses import replace
from typing import Any

from dagster_project.pipelines import churn as demo
from dagster_project.purchases import PURCHASES
from forecache import Baseline, EstimatorModel, FeatureView, Retraining, Window

NUM_TREES = 100


def boosted() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=NUM_TREES, n_jobs=2, verbose=-1, deterministic=True)


BOUGHT = FeatureView(
    name="bought",
    key=("customer_id",),
    sources=(PURCHASES,),
    windows=tuple(
        window
        for days in (30, 90, 180, 540)
        for window in (
            Window(f"purchases_{days}d", "count", days),
            Window(f"amount_{days}d", "sum", days, "amount"),
            Window(f"most_{days}d", "max", days, "amount"),
        )
    ),
)
GATE = replace(demo.churn.gate, floors={"roc_auc": 0.7}, baseline=Baseline("purchases_180d", scale=-1.0))
churn = replace(demo.churn, features=BOUGHT, model=EstimatorModel(build=boosted), gate=GATE, retraining=Retraining())
