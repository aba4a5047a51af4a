"""A model that is asked in real time: its request, what it looks up, and what answers where it cannot."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any, Literal

from forecache.pipeline.checks.checking import check_fields
from forecache.pipeline.checks.importable import path_of
from forecache.pipeline.code.fingerprint import fingerprint
from forecache.pipeline.declaration import Pipeline
from forecache.pipeline.features.entities import each_once
from forecache.pipeline.features.feature import Feature
from forecache.pipeline.features.view import FeatureView
from forecache.pipeline.models.applied import FunctionModel, RegisteredModel
from forecache.pipeline.models.gate import Gate
from forecache.pipeline.models.model import EstimatorModel, TorchModel, Training
from forecache.pipeline.models.trained import TRAINED, not_trained
from forecache.pipeline.realtime.as_pipeline import as_pipeline
from forecache.pipeline.realtime.check import check_realtime
from forecache.pipeline.realtime.examples import Examples
from forecache.pipeline.realtime.ladder import Rung
from forecache.pipeline.realtime.log import Log
from forecache.pipeline.realtime.lookup import Lookup
from forecache.pipeline.realtime.request import Candidates, RequestField
from forecache.pipeline.realtime.rollout import Rollout
from forecache.pipeline.schedules.as_of import first_as_of, last_as_of
from forecache.pipeline.schedules.schedule import Schedule
from forecache.pipeline.sources.table_source import AnySource


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
        log: What is kept of the answers in the lake; None: nothing.
        rollout: How a new release takes over from the one that answers, judged by the log; None: at once.
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
    log: Log | None = None
    rollout: Rollout | None = None
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        owner = f"Realtime {self.name!r}"
        check_fields(owner, self)
        check_realtime(owner, self)
        assert self.training_pipeline  # in which label, gate and schedule are checked

    @property
    def all_fields(self) -> tuple[RequestField, ...]:
        """Of the request, then of each candidate."""
        return self.request + (self.candidates.fields if self.candidates else ())

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @property
    def transform_path(self) -> str:
        """Where the transform is imported from: `module:name`."""
        return path_of(self.transform)

    @cached_property
    def is_tried(self) -> bool:
        """True; the transform is tried at the first call, when the project is loaded and its module is complete.

        Raises:
            SettingsError: It is wrong; see `forecache.pipeline.realtime.trial`.
        """
        from forecache.pipeline.realtime.trial import try_transform  # needs numpy

        try_transform(self)
        return True

    @property
    def is_trained(self) -> bool:
        """Whether the model is trained here, rather than applied as it is."""
        return isinstance(self.model, TRAINED)

    @property
    def trained_examples(self) -> Examples:
        """The examples of a model that is trained here.

        Raises:
            InputError: The model is not trained here.
        """
        if self.examples is None:
            raise not_trained(self.training_pipeline)
        return self.examples

    @property
    def views(self) -> tuple[FeatureView, ...]:
        """The views that are looked up, each once."""
        return tuple({lookup.view.name: lookup.view for lookup in self.lookups}.values())

    @property
    def contracts(self) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...], str], ...]:
        """Of each look-up its name, its key, its columns and the contract of its view."""
        return tuple((each.called, each.by, each.columns, each.view.packed.contract) for each in self.lookups)

    @cached_property
    def all_sources(self) -> tuple[AnySource, ...]:
        """What views and examples are computed from, each once: they are ingested before a night."""
        of_views = (source for view in self.views for source in view.sources)
        of_examples = self.examples.sources if self.examples else ()
        return each_once(f"real-time model {self.name!r}", [*of_examples, *of_views])

    @property
    def start(self) -> date:
        """First as-of date."""
        return first_as_of(self.schedule, self.all_sources or self.training_pipeline.sources)

    @property
    def end(self) -> date | None:
        """Last as-of date; None while the sources go on."""
        return last_as_of(self.schedule, self.all_sources)

    @cached_property
    def training_pipeline(self) -> Pipeline:
        """The model as a pipeline whose rows are those of requests, for training, registry and gate."""
        return as_pipeline(self)

    @cached_property
    def examples_fingerprint(self) -> str:
        """Hash of what the training set depends on besides the rows of the sources.

        Raises:
            SettingsError: The declaration holds a value that cannot be compared between two runs.
        """
        of = self.trained_examples
        days = (of.train_days, of.validation_days, of.test_days, of.horizon_days, of.history_days)
        examples = (of.compute, of.label, of.kind, of.weight, days, of.from_log)
        return fingerprint(features=self.training_pipeline.fingerprints.features, examples=examples)

    @cached_property
    def answers_fingerprint(self) -> str:
        """Hash of what a release holds besides the model.

        Raises:
            SettingsError: As `examples_fingerprint`.
        """
        return fingerprint(
            features=self.training_pipeline.fingerprints.features,
            request=(self.request, self.candidates),
            lookups=[(each.called, each.view.name, each.max_age_h) for each in self.lookups],
            output=self.output,
            ladder=self.ladder,
            limits=(self.deadline_ms, self.on_contract, self.on_unknown, self.on_nan, self.runs, self.cache_bytes),
            log=self.log,
            description=self.description,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the whole declaration."""
        examples = self.examples_fingerprint if self.examples else ""
        return fingerprint(all=(self.answers_fingerprint, self.training_pipeline.fingerprint, examples, self.rollout))
