"""The training pipeline of a real-time model, for training, registry and gate."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, cast

from forecache.base.table_names import POSITION, REQUEST_ID
from forecache.declare.declaration import Pipeline
from forecache.declare.features.features import Features, Label
from forecache.declare.models.output import Output
from forecache.declare.realtime.request import RequestField
from forecache.declare.sources.column import Column
from forecache.declare.sources.source_time import Static
from forecache.declare.sources.table_source import TableSource

if TYPE_CHECKING:
    from forecache.declare.realtime.realtime import Realtime


@dataclass(frozen=True)
class Transformed:
    """Stands for the feature function in the training pipeline of a real-time model; it is never called.

    It makes the pipeline's fingerprint follow the transform, the fields and the look-ups. The fingerprint contains the
    module and the name of this class: if they change, every real-time model is trained again.

    Attributes:
        fields: Fields of the request and of candidates, without descriptions, which do not change the fingerprint.
        contracts: Name, key, columns and contract of the view of each look-up.
    """

    transform: Callable[..., Any]
    fields: tuple[RequestField, ...]
    contracts: tuple[tuple[str, tuple[str, ...], tuple[str, ...], str], ...]

    def __call__(self, sources: object) -> Any:
        raise AssertionError("the training set of a real-time model is written from its examples")


def build_training_pipeline(model: "Realtime") -> Pipeline:
    """Build the training pipeline of a real-time model; its rows are those of requests.

    Its training set is written from the examples; its declared source is never read.
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
