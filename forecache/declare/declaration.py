"""A pipeline: its parts, the checks that they fit together, and the names of its tables."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from forecache.base.errors import SettingsError
from forecache.base.table_names import (
    AS_OF,
    FEATURES,
    PREDICTIONS,
    PROVENANCE_COLUMNS,
    check_column,
    check_name,
    check_unique,
)
from forecache.declare.as_of import check_schedule, first_as_of, last_as_of
from forecache.declare.checks import check_fields, check_known
from forecache.declare.expectations import Expectation, check_columns
from forecache.declare.features.features import Feature, Features, Label, check_features_without_function
from forecache.declare.features.view import FeatureView
from forecache.declare.models.check_training import check_outputs, check_training
from forecache.declare.models.gate import Gate
from forecache.declare.models.model import Training
from forecache.declare.models.output import AnyOutput, Segment
from forecache.declare.models.trainable import AnyModel, Fingerprints, Trainable, fingerprint_stages
from forecache.declare.policies import Drift, Publish, Retraining
from forecache.declare.schedule import Schedule
from forecache.declare.served import not_published_error
from forecache.declare.sources.column import check_pipeline_key
from forecache.declare.sources.source import AnySource, check_first_day
from forecache.declare.sql.statement import Statement, check_one_computation, compile_entities, compile_label
from forecache.declare.summary import declaration_html

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class Entities:
    """The keys that have a row on an as-of date, and further columns that views are joined by.

    `compute` gets `{source name: rows}`, as that of `Features` does, and returns one row for each entity and `as_of`:
    the pipeline's key columns, `as_of`, and `columns`, such as the airport of a flight. `sql` has the same columns, and
    each source is a table; see `Features`.

    Attributes:
        columns: Columns besides the key that are part of the key of a view.
    """

    compute: Callable[[Mapping[str, "DataFrame"]], "DataFrame"] | None = None
    sources: tuple[AnySource, ...] = ()
    columns: tuple[str, ...] = ()
    sql: str = ""

    def __post_init__(self) -> None:
        check_fields("`Entities`", self)
        check_one_computation("`Entities`", self.compute, self.sql)
        if not self.sources:
            raise SettingsError("`Entities` has no source.", remedy="Declare at least one.")
        check_unique("source", "`Entities`", [source.name for source in self.sources])
        check_unique("column", "`Entities`", self.columns)
        for name in self.columns:
            check_column("`Entities`", name)

    @property
    def computation(self) -> Any:
        """The function or the SQL."""
        return self.compute or self.sql


def check_entities(
    owner: str, key: Sequence[str], views: Sequence[FeatureView], entities: Entities | None, *, own: bool
) -> None:
    """Refuse views that cannot be joined to the entities; `own`: the features are the pipeline's own."""
    if not views:
        raise SettingsError(f"{owner} has no features.", remedy="Give a feature view, or several.")
    check_unique("feature view", owner, [view.name for view in views])
    if own:
        if entities is not None:
            raise SettingsError(
                f"{owner} has entities, and features of its own.",
                remedy="Its function returns the entities; declare entities where views are joined.",
            )
        return
    if entities is None and tuple(key) not in [view.key for view in views]:
        keys = "; ".join(f"{view.name} has {', '.join(view.key)}" for view in views)
        raise SettingsError(
            f"{owner} has another key than its features: it is {', '.join(key)}, and {keys}.",
            remedy="Declare `entities`, or take a view of the pipeline's key.",
        )
    given = {*key, *(entities.columns if entities else ())}
    for view in views:
        missing = [name for name in view.key if name not in given]
        if missing:
            raise SettingsError(
                f"{owner} joins the view {view.name!r} by {missing[0]!r}, which its entities do not have.",
                remedy=f"Return it from the function or SQL of `Entities`, and declare columns=({missing[0]!r},).",
            )


def unique_sources(owner: str, sources: Sequence[AnySource]) -> tuple[AnySource, ...]:
    """The sources in their order, each once by name."""
    named: dict[str, AnySource] = {}
    for source in sources:
        if named.setdefault(source.name, source) != source:
            raise SettingsError(
                f"Two different sources of {owner} are named {source.name!r}.",
                remedy="Declare it once, for the views, the entities and the label.",
            )
    return tuple(named.values())


def _refuse_to_compute(rows: Mapping[str, "DataFrame"]) -> "DataFrame":
    raise AssertionError("earlier features are computed by their own source")


@dataclass(frozen=True)
class Pipeline(Trainable):
    """One model, from its sources to served answers.

    Attributes:
        name: Part of the names of tables, jobs, the store and the reader's route.
        key: Columns that identify a prediction; the features have them, and at least one source declares each.
        features: The model's inputs: `Features` of its own, a view of this key that other pipelines may share, or
            several views, which are joined.
        entities: The keys that have a row if views are joined; None: those of the first view with the pipeline's key.
        label: The function or SQL from events to what the model learns; None for a model that is not trained here.
        sources: The sources of the label and of features of the pipeline's own; (): the sources of the view.
        model: The model that is trained, or applied as it is.
        training: How the model is trained, and on which as-of dates.
        outputs: What the model returns, as columns of the prediction table; the first one is learned from the label.
        segments: Columns with the range that an output lies in, such as "low" or "high".
        gate: The checks that a model that is trained here has to pass before it scores.
        schedule: When it runs and trains, and which days are its as-of dates.
        publish: What is served, when an answer is stale, and when a new version is refused; None: nothing is published,
            and the prediction table is the result.
        drift: How far the scores of an as-of date may be from those of other dates.
        shadow: Each nightly run also scores the challenger, if there is one.
        retraining: The limits beyond which a training starts before the scheduled one; None: no such training.
        expectations: Expectations of the prediction table besides the declared bounds.
        owner: An e-mail address or `team:NAME`, shown at the assets in Dagster's UI; "": none.
    """

    kind_name = "pipeline"
    packed: ClassVar[None] = None

    name: str
    key: tuple[str, ...]
    features: Features | FeatureView | tuple[FeatureView, ...]
    model: AnyModel
    outputs: tuple[AnyOutput, ...]
    sources: tuple[AnySource, ...] = ()
    entities: Entities | None = None
    label: Label | None = None
    gate: Gate | None = None
    training: Training = field(default_factory=Training)
    segments: tuple[Segment, ...] = ()
    schedule: Schedule = field(default_factory=Schedule)
    publish: Publish | None = field(default_factory=Publish)
    drift: Drift = field(default_factory=Drift)
    shadow: bool = False
    retraining: Retraining | None = None
    expectations: tuple[Expectation, ...] = ()
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        owner = self.display_name
        check_fields(owner, self)
        check_name("pipeline", self.name)
        check_outputs(owner, self.outputs, self.segments)
        if not self.key or (isinstance(self.features, Features) and not self.sources):
            raise SettingsError(f"{owner} has no key or no source.", remedy="Declare at least one of each.")
        if isinstance(self.features, Features):
            check_pipeline_key(owner, self.key, self.sources)
            check_features_without_function(owner, self.features, self.key, self.sources)
        check_entities(owner, self.key, self.views, self.entities, own=isinstance(self.features, Features))
        check_first_day(owner, self.all_sources)
        _ = self.entities_statement, self.label_statement  # compiled now, so that their errors are those of it
        check_schedule(owner, self.schedule, self.all_sources, self.publish)
        names = [name for feature in self.feature_columns for name in feature.own_names]
        check_unique("feature", owner, [*self.key, AS_OF, *names, *(self.label.columns if self.label else ())])
        check_unique("column", owner, [*self.key, AS_OF, *self.output_columns, *PROVENANCE_COLUMNS])
        given = [name for name in ("retraining", "shadow") if getattr(self, name)]
        check_training(owner, self, needed=("label", "gate"), only_trained=given)
        if self.retraining is not None:
            which = " in its retraining, which is not a feature"
            check_known(f"{owner} ignores", self.retraining.ignore, self.feature_names, which, "Its features are")
        check_columns(owner, self.expectations, [*self.key, AS_OF, *self.output_columns, *PROVENANCE_COLUMNS])
        if self.publish is not None:
            self.publish.check_served_fields(owner, self.output_columns)

    _repr_html_ = declaration_html

    @property
    def feature_table(self) -> str:
        """Delta table: key, as_of (date, partition), features (float32)."""
        return FEATURES + self.name if self.is_joined else self.views[0].feature_table

    @property
    def prediction_table(self) -> str:
        """Delta table: key, as_of (date, partition), output_columns, PROVENANCE_COLUMNS."""
        return PREDICTIONS + self.name

    @property
    def served_table(self) -> str:
        return self.prediction_table

    @property
    def challenger_table(self) -> str:
        """Delta table of the challenger's predictions, with the prediction table's columns; it is never published."""
        return f"{self.prediction_table}_challenger"

    @property
    def output_columns(self) -> tuple[str, ...]:
        return tuple(c for spec in self.output_specs for c in spec.columns) + tuple(cut.name for cut in self.segments)

    @property
    def served_fields(self) -> tuple[str, ...]:
        return self.publishing.fields or self.output_columns

    @property
    def publishing(self) -> Publish:
        """Settings of the publish; raises InputError if the pipeline declares `publish=None`."""
        if self.publish is None:
            raise not_published_error(self.name)
        return self.publish

    @property
    def trained_label(self) -> Label:
        label = super().trained_label
        assert isinstance(label, Label)
        return label

    @cached_property
    def views(self) -> tuple[FeatureView, ...]:
        """The views of the features; features of the pipeline's own are a view that no other pipeline uses."""
        if isinstance(self.features, Features):
            view = FeatureView(self.name, self.key, self.sources, self.features)
            return (replace(view, description=self.description, owner=self.owner),)
        return self.features if isinstance(self.features, tuple) else (self.features,)

    def read_features(self, name: str, features: Sequence[str]) -> "Pipeline":
        """The pipeline over the table of a view of this name with earlier features, which it does not compute.

        It is not checked again: a gate, for example, may name a feature that there was not.
        """
        known = {feature.name: feature for feature in self.feature_columns}
        columns = tuple(known.get(each) or Feature(each) for each in features)
        found = copy(self)
        for cached in ("views", "fingerprints"):
            vars(found).pop(cached, None)
        view = FeatureView(name, self.key, self.all_sources, Features(columns, _refuse_to_compute))
        object.__setattr__(found, "features", view)
        object.__setattr__(found, "entities", None)
        return found

    @property
    def is_joined(self) -> bool:
        """True if the features are joined from views into a table of the pipeline's own."""
        return len(self.views) > 1 or self.entities is not None

    @property
    def feature_expectations(self) -> tuple[Expectation, ...]:
        return sum((view.feature_expectations for view in self.views), ())

    @property
    def feature_columns(self) -> tuple[Feature, ...]:
        return tuple(feature for view in self.views for feature in view.feature_columns)

    @cached_property
    def all_sources(self) -> tuple[AnySource, ...]:
        of_views = (source for view in self.views for source in view.sources)
        of_entities = self.entities.sources if self.entities else ()
        return unique_sources(f"pipeline {self.name!r}", [*self.sources, *of_views, *of_entities])

    @property
    def label_sources(self) -> tuple[AnySource, ...]:
        return self.sources or self.all_sources

    @cached_property
    def entities_statement(self) -> Statement | None:
        """The compiled SQL of the entities; None without SQL."""
        declared = self.entities
        if declared is None or not declared.sql:
            return None
        owner = f"The entities of {self.inline_name}"
        return compile_entities(owner, declared.sql, self.key, declared.columns, declared.sources, self.all_sources)

    @cached_property
    def label_statement(self) -> Statement | None:
        """The compiled SQL of the label; None without SQL."""
        label = self.label
        if label is None or not label.sql:
            return None
        owner, has_classes = f"The label of {self.inline_name}", label.kind == "multiclass"
        sources = self.label_sources, self.all_sources
        return compile_label(owner, label.sql, self.key, label.columns, *sources, has_classes=has_classes)

    @property
    def label_inputs(self) -> Any:
        return self.label_statement.canonical if self.label_statement else self.trained_label.compute

    @property
    def start(self) -> date:
        return first_as_of(self.schedule, self.all_sources)

    @property
    def end(self) -> date | None:
        return last_as_of(self.schedule, self.all_sources)

    @property
    def fingerprint(self) -> str:
        return self.fingerprints.digest

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """Hashes of what each stage reads of the declaration and of the project's code.

        A stage compares its hash with the recorded one to decide whether its earlier result is still current.
        """
        computed: dict[str, Any] = {"views": [view.fingerprint for view in self.views]}
        if self.entities is not None:
            made = self.entities_statement
            computed["entities"] = (self.entities.columns, made.canonical if made else self.entities.compute)
        segments = [(cut.name, cut.of, cut.bounds, cut.labels) for cut in self.segments]
        return fingerprint_stages(self, computed, segments)
