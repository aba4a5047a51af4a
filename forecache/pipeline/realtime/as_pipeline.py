"""A real-time model as a pipeline, which training, registry and gate take."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, cast

from forecache.pipeline.declaration import Pipeline
from forecache.pipeline.features.features import Features, Label
from forecache.pipeline.models.output import Output
from forecache.pipeline.names import POSITION, REQUEST_ID
from forecache.pipeline.realtime.request import RequestField
from forecache.pipeline.sources.column import Column
from forecache.pipeline.sources.source_time import Static
from forecache.pipeline.sources.table_source import TableSource

if TYPE_CHECKING:
    from forecache.pipeline.realtime.realtime import Realtime


@dataclass(frozen=True)
class Transformed:
    """What the features of a real-time model are computed by, in place of a function of Spark; it is never called.

    Attributes:
        fields: Without their descriptions, on which nothing that is trained depends.
        contracts: Of each look-up its name, its key, its columns and the contract of its view.
    """

    transform: Callable[..., Any]
    fields: tuple[RequestField, ...]
    contracts: tuple[tuple[str, tuple[str, ...], tuple[str, ...], str], ...]

    def __call__(self, sources: object) -> Any:
        raise AssertionError("the training set of a real-time model is written from its examples")


def as_pipeline(model: "Realtime") -> Pipeline:
    """The model as a pipeline whose rows are those of requests.

    Its training set is written from the examples; the source that it names is never read.
    """
    label = None
    if model.examples is not None:
        of, compute = model.examples, cast(Any, model.examples.compute)
        label = Label(of.label, of.kind, max(1, of.horizon_days), compute, weight=of.weight)
    fields = tuple(replace(each, description="") for each in model.all_fields)
    starts = [source.start for source in model.all_sources if source.start is not None]
    key = (REQUEST_ID, POSITION)
    rows = TableSource(
        "requests",
        f"requests_{model.name}",
        (Column(REQUEST_ID, "string", required=True), Column(POSITION, "int", required=True)),
        key=key,
        time=Static(),
        start=max(starts, default=date(2000, 1, 1)),
    )
    return Pipeline(
        model.name,
        key=key,
        features=Features(model.features, Transformed(model.transform, fields, model.contracts)),
        model=model.model,
        outputs=(Output(model.output),),
        sources=(rows,),
        label=label,
        gate=model.gate,
        training=model.training,
        schedule=model.schedule,
        publish=None,
        description=model.description,
        owner=model.owner,
    )
