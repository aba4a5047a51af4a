"""Three networks over the same twenty features: `bench_narrow` as churn has it, `bench_wide` compute-bound,
`bench_linear` whose cost is reading."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from forecache.declare import (
    Baseline,
    Column,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Source,
    TorchModel,
    Training,
)

NAMES = tuple(f"f{number:02d}" for number in range(20))
LABEL = "label"
ROWS = Source(
    name="bench_rows",
    columns=(Column("key", "bigint"), Column("day", "date")),
    event_time="day",
    start=date(2024, 1, 1),
)


def no_events(*arguments: Any) -> Mapping[str, Any]:
    raise NotImplementedError("the benchmark writes the training set itself")


def narrow(num_features: int) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(num_features, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
    )


def wide(num_features: int) -> Any:
    from torch import nn

    return nn.Sequential(
        *(nn.Linear(num_features, 768), nn.ReLU()),
        *(nn.Linear(768, 768), nn.ReLU()),
        *(nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, 1)),
    )


def linear(num_features: int) -> Any:
    from torch import nn

    return nn.Linear(num_features, 1)


def _pipeline(name: str, build: Any, training: Training) -> Pipeline:
    return Pipeline(
        name=name,
        key=("key",),
        sources=(ROWS,),
        features=Features(compute=no_events, columns=tuple(Feature(name) for name in NAMES)),
        label=Label(LABEL, "binary", 30, no_events),
        model=TorchModel(build=build),
        training=training,
        outputs=(Output("probability", minimum=0.0, maximum=1.0),),
        gate=Gate(metric="roc_auc", floors={"roc_auc": 0.5}, baseline=Baseline(NAMES[0])),
    )


bench_narrow = _pipeline("bench_narrow", narrow, Training(epochs=1, batch_size=1024))
bench_wide = _pipeline("bench_wide", wide, Training(epochs=3, batch_size=2048, patience=100))
bench_linear = _pipeline("bench_linear", linear, Training(epochs=1, batch_size=8192))
PIPELINES = {pipeline.name: pipeline for pipeline in (bench_narrow, bench_wide, bench_linear)}
