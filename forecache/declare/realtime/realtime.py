"""A real-time model: its request, look-ups, transform, model, and fallbacks for when the model cannot answer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import Any, ClassVar, Literal

from forecache.base.errors import SettingsError
from forecache.base.output_kinds import DECLARED
from forecache.base.table_names import (
    AS_OF,
    EVENT_TIMESTAMP,
    POSITION,
    PROVENANCE_COLUMNS,
    REQUEST_ID,
    check_column,
    check_name,
    check_unique,
)
from forecache.declare.as_of import last_as_of
from forecache.declare.checks import (
    check_arguments,
    check_fields,
    check_importable,
    check_known,
    check_least,
    check_value,
    import_path_of,
)
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.declaration import unique_sources
from forecache.declare.features.features import Feature
from forecache.declare.features.view import FeatureView
from forecache.declare.models.applied import FunctionModel, RegisteredModel
from forecache.declare.models.check_training import check_training
from forecache.declare.models.gate import Gate
from forecache.declare.models.model import EstimatorModel, TorchModel, Training
from forecache.declare.models.output import Output
from forecache.declare.models.trainable import (
    ExampleLabel,
    Fingerprints,
    Trainable,
    fingerprint_stages,
    not_trained_error,
)
from forecache.declare.realtime.examples import Examples, Log
from forecache.declare.realtime.lookups import (
    DeclaredFallback,
    Default,
    DotProduct,
    Lookup,
    OrderGiven,
    Precomputed,
    Stored,
)
from forecache.declare.realtime.request import Candidates, RequestField
from forecache.declare.realtime.rollout import Rollout
from forecache.declare.schedule import Schedule
from forecache.declare.sources.column import key_types
from forecache.declare.sources.source import AnySource
from forecache.declare.summary import declaration_html

OWN_COLUMNS = (REQUEST_ID, EVENT_TIMESTAMP, POSITION, AS_OF, "split")
"""Reserved columns of examples and of their training set, which no field or feature may have."""

_KEYS = "a string, a bigint or a date"


def check_realtime(owner: str, model: "Realtime") -> None:
    """Refuse a declaration that could not answer, or whose model could not be trained."""
    check_name("real-time model", model.name)
    check_column(f"{owner}, as its output,", model.output)
    beside = ("answered_by", "rank", model.candidates.item.name) if model.candidates else ("answered_by",)
    rule = f"An answer has {' and '.join(beside)} beside it: choose another name."
    check_value(owner, "output", model.output, model.output not in beside, rule)
    _check_names(owner, model)
    check_least(owner, model, 0, "deadline_ms", above=True)
    check_least(owner, model, 0, "cache_bytes")
    check_importable(owner, "transform", model.transform, by="A release packs it by its name")
    check_arguments(owner, "transform", model.transform, "rows")
    for feature in model.features:
        rule = "A transform returns float32: declare each of its columns as a number."
        check_value(owner, f"feature {feature.name!r}", feature.type, feature.type == "number", rule)
    types = {field.name: field.type for field in model.all_fields}
    for lookup in model.lookups:
        _check_lookup(owner, lookup, types)
    _check_log(owner, model)
    _check_fallbacks(owner, model, types)
    _check_model(owner, model)


def _check_names(owner: str, model: "Realtime") -> None:
    check_unique("field", owner, [each.name for each in model.all_fields])
    check_unique("look-up", owner, [each.called for each in model.lookups])
    check_value(owner, "features", model.features, bool(model.features), "Declare what the transform returns.")
    check_value(owner, "request", model.request, bool(model.all_fields), "Declare a field, or candidates.")
    of_examples = model.examples.columns if model.examples else ()
    check_unique("feature", owner, [*OWN_COLUMNS, *of_examples, *model.feature_names])
    check_unique("column of the examples", owner, [*OWN_COLUMNS, *of_examples, *(f.name for f in model.all_fields)])
    check_unique("column", owner, [*model.key, AS_OF, model.output, *PROVENANCE_COLUMNS])
    if model.candidates is not None:
        check_unique("field", owner, [model.candidates.name, *(each.name for each in model.request)])


def _check_lookup(owner: str, lookup: Lookup, types: Mapping[str, str]) -> None:
    view = lookup.view
    if view.publish is None:
        raise SettingsError(
            f"{owner} looks up the view {view.name!r}, which is not published.",
            remedy="Declare it with `publish=Publish()`.",
        )
    wanted = key_types(view.key, view.sources)
    for column, name in zip(view.key, lookup.by, strict=True):
        by = f"looks up the view {view.name!r} by {name!r}"
        if name not in types:
            raise SettingsError(
                f"{owner} {by}, which is no field of its request.",
                remedy=f"Its fields are {', '.join(types) or 'none'}: name those that hold the key, Lookup(key=(...)).",
            )
        if DECLARED.get(types[name]) != DECLARED[wanted[column]]:
            raise SettingsError(
                f"{owner} {by}, which is a {types[name]}, and the view's {column!r} is a {wanted[column]}.",
                remedy="Declare the field with the type of the key.",
            )


def _num_days_learned_from(examples: "Examples") -> int:
    """Days from the oldest request that a training reads to the date of the training."""
    return examples.train_days + examples.validation_days + examples.test_days + 3 * examples.horizon_days


def _check_log(owner: str, model: "Realtime") -> None:
    if model.log is None and model.examples is not None and model.examples.from_log:
        raise SettingsError(
            f"{owner} learns from its log and has none.", remedy='Declare `log=Log("...")`, or leave `from_log` out.'
        )
    if model.log is not None and model.examples is not None and model.examples.from_log:
        needed = _num_days_learned_from(model.examples)
        if model.log.keep_days < needed:
            raise SettingsError(
                f"{owner} learns from {needed} days of its log, splits and horizons together, and keeps "
                f"{model.log.keep_days}.",
                remedy=f"Declare `keep_days={needed}` or more for its log, or give the splits fewer days.",
            )
    types = {field.name: field.type for field in model.request}
    for name in model.log.by if model.log is not None else ():
        if name not in types:
            raise SettingsError(
                f"{owner} logs requests by {name!r}, which is no field of the request itself.",
                remedy=f"Its fields are {', '.join(types) or 'none'}: name those that hold the key, Log(by=(...)).",
            )
        if types[name] not in DECLARED:
            raise SettingsError(
                f"{owner} logs requests by {name!r}, which is a {types[name]}.", remedy=f"A key is {_KEYS}."
            )


def _check_fallbacks(owner: str, model: "Realtime", types: Mapping[str, str]) -> None:
    check_value(
        owner, "fallbacks", model.fallbacks, bool(model.fallbacks), "Declare what answers where the model does not."
    )
    always, kind = (OrderGiven, "OrderGiven()") if model.candidates else (Default, "Default(...)")
    what = "ranks candidates" if model.candidates else "answers one value"
    if not isinstance(model.fallbacks[-1], always):
        raise SettingsError(
            f"{owner} {what}, and its last fallback is {type(model.fallbacks[-1]).__name__}, which may have no answer.",
            remedy=f"End the fallbacks with {kind}.",
        )
    for fallback in model.fallbacks[:-1]:
        if isinstance(fallback, (OrderGiven, Default)):
            raise SettingsError(
                f"{owner} has {type(fallback).__name__} before other fallbacks, which then never answer.",
                remedy="Move it to the end of the fallbacks.",
            )
    for stored in stored_values_of(model.fallbacks):
        use = f"{owner} has a fallback that reads {stored.store!r} by"
        check_known(use, stored.key, types, ", which is no field of its request", "Its fields are")


def stored_values_of(fallbacks: Sequence[DeclaredFallback]) -> Iterable[Stored]:
    """The stored values that fallbacks read."""
    for fallback in fallbacks:
        if isinstance(fallback, DotProduct):
            yield from (fallback.user, fallback.item)
        elif isinstance(fallback, Precomputed):
            yield fallback.of


def _check_model(owner: str, model: "Realtime") -> None:
    if isinstance(model.model, (TorchModel, EstimatorModel)):
        arguments = ("num_features",) if isinstance(model.model, TorchModel) else ()
        check_arguments(f"{owner}, in its model,", "build", model.model.build, *arguments)
    if model.examples is not None and model.examples.kind == "ranking" and model.candidates is None:
        raise SettingsError(
            f"{owner} learns a ranking and has no candidates to rank.",
            remedy="Declare `candidates`, or examples of kind 'binary' or 'regression'.",
        )
    rule = "A function can hang: leave `runs` out, and it runs in a process that can be abandoned."
    check_value(owner, "runs", model.runs, not (isinstance(model.model, FunctionModel) and model.runs == "loop"), rule)
    check_training(owner, model, needed=("examples", "gate"))


_FIRST_DAY = date(2000, 1, 1)  # of a model without sources


@dataclass(frozen=True)
class Realtime(Trainable):
    """A model in the path of a request: `POST /v1/<name>` answers within a deadline.

    Attributes:
        request: Fields of the request.
        candidates: The list that the request asks to rank; None: the answer is one value.
        lookups: Published feature views whose rows the request looks up.
        transform: `transform(rows)` from the `Rows` of one request to the model's features, float32 [n, num_features].
        features: Their names, in order.
        model: The model that is trained on `examples`, or applied as it is.
        output: Name of the value in an answer.
        deadline_ms: An answer is given within it, counted from the arrival of the request, whatever the model does. A
            request may ask for a shorter one.
        fallbacks: The fallbacks that answer if the model does not, in the order in which they are tried; the last one
            can always answer.
        on_contract: If a served view is not the one that the model was trained with, "refuse" does not call the model,
            and "flag" calls it and flags the answer.
        on_unknown: Whether a request with a field that is not declared is refused, or the field ignored.
        on_nan: Whether a request with a number that is not finite is refused; some protocols can send such numbers.
        runs: Where transform and model run: in the reader's event loop ("loop"), or in a process that can be abandoned
            ("process"); "auto" is the loop if the model is native and its measured 99th percentile is below 2 ms.
        cache_bytes: Memory of a worker for answers of repeated requests; 0: none.
        log: The request log in the lake; None: answers are not logged.
        rollout: The steps in which a new release takes over, judged by the log; None: at once.
    """

    kind_name = "real-time model"
    group_column = REQUEST_ID
    key: ClassVar[tuple[str, ...]] = (REQUEST_ID, POSITION)
    feature_table: ClassVar[str] = ""

    name: str
    request: tuple[RequestField, ...]
    transform: Callable[..., Any]
    features: tuple[Feature, ...]
    model: TorchModel | EstimatorModel | RegisteredModel | FunctionModel
    fallbacks: tuple[DeclaredFallback, ...]
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
        check_fields(self.display_name, self)
        check_realtime(self.display_name, self)

    _repr_html_ = declaration_html

    @property
    def all_fields(self) -> tuple[RequestField, ...]:
        return self.request + (self.candidates.fields if self.candidates else ())

    @property
    def feature_columns(self) -> tuple[Feature, ...]:
        return self.features

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        return (Output(self.output),)

    @cached_property
    def label(self) -> ExampleLabel | None:
        of = self.examples
        return None if of is None else ExampleLabel(of.label, of.kind, of.compute, of.weight)

    @property
    def transform_path(self) -> str:
        return import_path_of(self.transform)

    @cached_property
    def is_tried(self) -> bool:
        """True; tries the transform at the first call, when the project is loaded and its module is complete."""
        from forecache.declare.realtime.try_transform import try_transform  # needs numpy

        try_transform(self)
        return True

    @property
    def trained_examples(self) -> Examples:
        """The examples; raises InputError if the model is not trained here."""
        if self.examples is None:
            raise not_trained_error(self)
        return self.examples

    @property
    def views(self) -> tuple[FeatureView, ...]:
        return tuple({lookup.view.name: lookup.view for lookup in self.lookups}.values())

    @property
    def contracts(self) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...], str], ...]:
        """Name, key fields, columns and contract of the view of each look-up."""
        return tuple((each.called, each.by, each.columns, each.view.packed.contract) for each in self.lookups)

    @cached_property
    def all_sources(self) -> tuple[AnySource, ...]:
        """The sources of views and examples, each once; they are ingested before a nightly run."""
        of_views = (source for view in self.views for source in view.sources)
        of_examples = self.examples.sources if self.examples else ()
        return unique_sources(f"real-time model {self.name!r}", [*of_examples, *of_views])

    @property
    def start(self) -> date:
        starts = [source.start for source in self.all_sources if source.start]
        return self.schedule.first_as_of_from(max(starts, default=_FIRST_DAY))

    @property
    def end(self) -> date | None:
        return last_as_of(self.schedule, self.all_sources)

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """Hashes of the parts of the declaration that features, training set, training and scoring depend on."""
        return fingerprint_stages(
            self,
            {
                "computed": [feature.computation_inputs for feature in self.features],
                "transform": self.transform,
                "fields": [replace(each, description="") for each in self.all_fields],
                "contracts": self.contracts,
            },
        )

    @cached_property
    def examples_fingerprint(self) -> str:
        """Hash of everything that the training set depends on besides the rows of the sources."""
        of = self.trained_examples
        days = (of.train_days, of.validation_days, of.test_days, of.horizon_days, of.history_days)
        examples = (of.compute, of.label, of.kind, of.weight, days, of.from_log)
        return fingerprint(features=self.fingerprints.features, examples=examples)

    @cached_property
    def answers_fingerprint(self) -> str:
        """Hash of everything in a release besides the model."""
        return fingerprint(
            features=self.fingerprints.features,
            request=(self.request, self.candidates),
            lookups=[(each.called, each.view.name, each.max_age_h) for each in self.lookups],
            output=self.output,
            fallbacks=self.fallbacks,
            limits=(self.deadline_ms, self.on_contract, self.on_unknown, self.on_nan, self.runs, self.cache_bytes),
            log=self.log,
            description=self.description,
        )

    @cached_property
    def fingerprint(self) -> str:
        examples = self.examples_fingerprint if self.examples else ""
        return fingerprint(all=(self.answers_fingerprint, self.fingerprints.digest, examples, self.rollout))
