"""A model that is asked in real time: its request, what it looks up, and what answers where it cannot."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from forecache.pipeline.checks.checking import check_fields, check_least, check_value
from forecache.pipeline.features.feature import Feature
from forecache.pipeline.models.applied import FunctionModel, RegisteredModel
from forecache.pipeline.models.gate import Gate
from forecache.pipeline.models.model import EstimatorModel, TorchModel, Training
from forecache.pipeline.names import check_name, check_unique
from forecache.pipeline.realtime.examples import Examples
from forecache.pipeline.realtime.ladder import Rung
from forecache.pipeline.realtime.lookup import Lookup
from forecache.pipeline.realtime.request import Candidates, RequestField
from forecache.pipeline.schedules.schedule import Schedule


@dataclass(frozen=True)
class Realtime:
    """A model in the path of a request: `POST /v1/<name>` answers within a deadline.

    Attributes:
        request: Fields of the request.
        candidates: The list that the request asks to rank; None: the answer is one value.
        lookups: Published feature views whose rows the request looks up.
        transform: `transform(rows)` from the `Rows` of one request to the model's features, float32 [n, num_features].
        features: Their names, in order.
        model: What is trained on `examples`, or applied as it is.
        output: What the answer calls the value.
        deadline_ms: An answer is given within it, counted from the arrival of the request, whatever the model does. A
            request may ask for a shorter one.
        ladder: What answers where the model does not, from the best to the last, which always can.
        on_contract: What happens where a served view is not the one that the model was trained with: "refuse": the
            model is not asked, "flag": it is, and the answer says so.
        on_unknown: What happens to a field of a request that is not declared.
        on_nan: What happens to a number of a request that is not finite, where its protocol can send one.
        runs: Where transform and model run: in the reader's event loop, or in a process that can be abandoned; "auto":
            in the loop where the model is native and its measured 99th percentile is below 2 ms.
        cache_bytes: Memory of a worker for answers of repeated requests; 0: none.
    """

    name: str
    request: tuple[RequestField, ...]
    transform: Callable[..., Any]
    features: tuple[Feature, ...]
    model: TorchModel | EstimatorModel | RegisteredModel | FunctionModel
    ladder: tuple[Rung, ...]
    candidates: Candidates | None = None
    lookups: tuple[Lookup, ...] = ()
    output: str = "score"
    examples: Examples | None = None
    gate: Gate | None = None
    training: Training = field(default_factory=Training)
    schedule: Schedule = field(default_factory=Schedule)
    deadline_ms: float = 50.0
    on_contract: Literal["refuse", "flag"] = "refuse"
    on_unknown: Literal["refuse", "ignore"] = "refuse"
    on_nan: Literal["refuse", "accept"] = "refuse"
    runs: Literal["auto", "loop", "process"] = "auto"
    cache_bytes: int = 0
    description: str = ""
    owner: str = "ml-platform@example.com"

    def __post_init__(self) -> None:
        owner = f"Realtime {self.name!r}"
        check_fields(owner, self)
        check_name("real-time model", self.name)
        check_unique("field", owner, [each.name for each in self.all_fields])
        check_unique("look-up", owner, [each.called for each in self.lookups])
        check_value(owner, "features", self.features, bool(self.features), "Declare what the transform returns.")
        check_unique("feature", owner, [each.name for each in self.features])
        check_least(owner, self, 0, "deadline_ms", above=True)
        check_least(owner, self, 0, "cache_bytes")

    @property
    def all_fields(self) -> tuple[RequestField, ...]:
        """Of the request, then of each candidate."""
        return self.request + (self.candidates.fields if self.candidates else ())

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)
