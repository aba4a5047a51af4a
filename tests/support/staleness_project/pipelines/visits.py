"""Visits: whether somebody comes back."""

from datetime import date
from functools import partial
from typing import Any

from forecache.declare import (
    Baseline,
    Column,
    Drift,
    EstimatorModel,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Publish,
    Retraining,
    Segment,
    Source,
    TorchModel,
    Training,
    expect,
)
from staleness_project import windows
from staleness_project.features import feature_rows
from staleness_project.networks import Network, robust_loss, tree
from staleness_project.shared import Labeller

VISITS = Source(
    name="visits",
    columns=(Column("user_id", "string"), Column("day", "date"), Column("amount", "double", minimum=0)),
    event_time="day",
    start=date(2024, 1, 1),
)
COLUMNS = (Feature("recency", log=True), Feature("amount"))


def land(folder: str) -> str:
    """Writes demo files; no stage calls it."""
    return f"{folder}/visits"


visits = Pipeline(
    name="visits",
    description="Whether somebody comes back.",
    key=("user_id",),
    sources=(VISITS,),
    features=Features(
        compute=partial(feature_rows, days=windows.DAYS),
        columns=COLUMNS,
        expectations=(expect("expect_column_values_to_be_between", column="recency", min_value=0),),
    ),
    label=Label("returned", "binary", 30, Labeller(least=1)),
    model=TorchModel(build=lambda num_features: Network(num_features, width=8), loss=robust_loss(0.5)),
    training=Training(num_as_of=4, epochs=3),
    outputs=(Output("probability", minimum=0.0, maximum=1.0),),
    segments=(Segment("band", of="probability", bounds=(0.5,), labels=("low", "high")),),
    gate=Gate("roc_auc", floors={"roc_auc": 0.6}, baseline=Baseline("recency")),
    publish=Publish(max_psi=0.5),
    drift=Drift(last=7),
    retraining=Retraining(min_nights=3),
)

trees = Pipeline(
    name="trees",
    key=("user_id", "day"),
    sources=(VISITS,),
    features=Features(compute=lambda events: feature_rows(events, days=7), columns=COLUMNS),
    label=Label("back", "binary", 15, Labeller(least=3)),
    model=EstimatorModel(build=tree),
    training=Training(seed=1),
    outputs=(Output("score"),),
    gate=Gate("roc_auc", floors={}, baseline=Baseline("recency")),
)


def unused(events: Any) -> Any:
    return events
