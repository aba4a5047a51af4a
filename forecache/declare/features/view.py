"""A feature view: the features of one key, computed once for all pipelines that use them."""

from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import Literal

from forecache.base.errors import InputError, SettingsError
from forecache.base.table_names import AS_OF, FEATURES, TILES, check_name, check_unique
from forecache.declare.as_of import check_schedule
from forecache.declare.checks import check_fields, check_value
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.expectations import Expectation, check_columns
from forecache.declare.features.features import Feature, Features, check_features_without_function
from forecache.declare.features.live import Live, build_merge_plan, check_live
from forecache.declare.features.window import Measure, Window
from forecache.declare.policies import Publish
from forecache.declare.schedule import Schedule
from forecache.declare.served import PackedLayout
from forecache.declare.sources.column import check_pipeline_key
from forecache.declare.sources.source import AnySource, Source, check_first_day, first_day
from forecache.declare.sql.statement import Statement, compile_features
from forecache.declare.summary import declaration_html

_MOST_COLUMNS = 16_384
TILE_COLUMNS = ("day", "events", "key_bucket")
"""Columns of a table of tiles besides the key and the states."""

# Format of the states in tiles.
_FORMAT = 2
# Format of the states in the nightly rows of a live view.
_LIVE_FORMAT = 1


@dataclass(frozen=True)
class FeatureView:
    """Features of one key, in a table of their own that several pipelines may use.

    Attributes:
        name: Part of the name of its table, `features_<name>`.
        key: Columns that identify a row; at least one source declares each.
        sources: The sources that the features are computed from.
        features: Features from a function or SQL, or columns of an existing table; None with `windows`.
        windows: Features declared as aggregates over one source of events; the features of an as-of date are merged
            from daily tiles.
        active_days: With windows, a key has a row on an as-of date if it had an event in the last `active_days` days:
            "longest" are those of the longest window, "ever" all days. Rows whose key is null are left out.
        publish: How the newest as-of date is published for look-up, as packed float32; None: it is not. Fields are
            features that are numbers, integers, texts or vectors; a null is NaN.
        schedule: For a published view, its as-of dates, which are also those of the pipelines that use it; and when it
            runs if no pipeline builds it.
        owner: An e-mail address or `team:NAME`, shown at the asset in Dagster's UI; "": none.
        live: For published windows: features are merged with the events of a stream when they are read; None: they are
            those of the last published as-of date.
    """

    name: str
    key: tuple[str, ...]
    sources: tuple[AnySource, ...]
    features: Features | None = None
    windows: tuple[Window, ...] = ()
    active_days: int | Literal["longest", "ever"] = "longest"
    publish: Publish | None = None
    schedule: Schedule = field(default_factory=Schedule)
    description: str = ""
    owner: str = ""
    live: Live | None = None

    def __post_init__(self) -> None:
        owner = f"FeatureView {self.name!r}"
        check_fields(owner, self)
        check_name("feature view", self.name)
        if not self.key or not self.sources:
            raise SettingsError(f"{owner} has no key or no source.", remedy="Declare at least one of each.")
        check_unique("source", owner, [source.name for source in self.sources])
        check_pipeline_key(owner, self.key, self.sources)
        if self.features is not None:
            check_features_without_function(owner, self.features, self.key, self.sources)
        _ = self.statement  # compiled now, so that its errors are those of the declaration
        check_first_day(owner, self.sources)
        check_windows(owner, self)
        names = [name for feature in self.feature_columns for name in feature.own_names]
        check_unique("feature", owner, [*self.key, AS_OF, *names])
        check_columns(f"{owner}, in its features,", self.feature_expectations, [*self.key, AS_OF, *self.feature_names])
        check_publish(owner, self)
        check_live(owner, self)

    _repr_html_ = declaration_html

    @property
    def feature_columns(self) -> tuple[Feature, ...]:
        if self.features is not None:
            return self.features.columns
        return tuple(
            Feature(each.name, each.description or each.default_description, log=each.log) for each in self.windows
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.feature_columns)

    @property
    def feature_expectations(self) -> tuple[Expectation, ...]:
        return self.features.expectations if self.features is not None else ()

    @property
    def feature_table(self) -> str:
        """Delta table: key, as_of (date, partition), features (see `Feature`)."""
        return FEATURES + self.name

    @property
    def all_sources(self) -> tuple[AnySource, ...]:
        return self.sources

    @property
    def start(self) -> date:
        return first_day(self.sources)

    @property
    def end(self) -> date | None:
        return min((source.end for source in self.sources if source.end), default=None)

    @cached_property
    def statement(self) -> Statement | None:
        """The compiled SQL of the features; None without SQL. SettingsError if it is wrong."""
        if self.features is None or not self.features.sql:
            return None
        owner = f"FeatureView {self.name!r}"
        types = {feature.name: feature.type for feature in self.feature_columns}
        return compile_features(owner, self.features.sql, self.key, types, self.sources)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that the rows of an as-of date depend on besides the rows of the sources."""
        if self.live is None:
            return self.features_fingerprint
        return fingerprint(features=self.features_fingerprint, nights=self.live.nights, format=_LIVE_FORMAT)

    @cached_property
    def features_fingerprint(self) -> str:
        """Hash of everything that the features depend on besides the rows of the sources."""
        if self.features is not None:
            computed = [feature.computation_inputs for feature in self.feature_columns]
            compute = self.features.compute if self.statement is None else self.statement.canonical
            return fingerprint(key=self.key, features=computed, compute=compute)
        windows = [each.computation_inputs for each in self.windows]
        return fingerprint(tiles=self.tile_fingerprint, windows=windows, days=self.num_active_days)

    @property
    def publishing(self) -> Publish:
        """Settings of the publish; raises InputError if the view declares no `publish`."""
        if self.publish is None:
            raise InputError(
                f"The feature view {self.name!r} is not published.", remedy="Declare it with `publish=Publish()`."
            )
        known = self.publish.max_null_share
        return replace(self.publish, max_null_share=1.0 if known is None else known)

    @property
    def served_table(self) -> str:
        return self.feature_table

    @property
    def served_features(self) -> tuple[Feature, ...]:
        """The published features, in the order of the columns of a look-up's matrix."""
        by_name = {feature.name: feature for feature in self.feature_columns}
        return tuple(by_name[name] for name in self.served_fields)

    @property
    def served_fields(self) -> tuple[str, ...]:
        return (self.publish and self.publish.fields) or self.feature_names

    @property
    def served_columns(self) -> tuple[str, ...]:
        """Column names of a look-up's matrix: the feature's name, or `<name>_0` and so on for a vector."""
        return tuple(name for feature in self.served_features for name in feature.own_names[bool(feature.size) :])

    @cached_property
    def packed(self) -> PackedLayout:
        """The layout of its packed rows; the contract changes if a column, its definition or the key changes."""
        sizes = {feature.name: feature.size for feature in self.served_features if feature.size}
        live = {} if self.live is None else {"live": self.live.tile_minutes}
        meant = fingerprint(view=self.features_fingerprint, key=self.key, columns=self.served_columns, **live)
        return PackedLayout(sizes, meant, self.live_states)

    @cached_property
    def live_states(self) -> tuple[str, ...]:
        """The columns with the states of a live view; () for another view."""
        return () if self.live is None else tuple(column.name for column in build_merge_plan(self).base_columns)

    @property
    def tile_table(self) -> str:
        """Delta table of tiles: key, day (date, partition), `events` and the state of each measure."""
        return TILES + self.name

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """The measures whose states a tile has, each once, in a fixed order."""
        found = {measure.name: measure for window in self.windows for measure in window.measures}
        return tuple(found[name] for name in sorted(found))

    @cached_property
    def tile_fingerprint(self) -> str:
        """Hash of everything that a tile depends on besides the rows of its day."""
        types = sorted((column.name, column.type) for column in self.event_source.columns)
        return fingerprint(
            key=self.key, measures=self.measures, time=self.event_source.event_time, types=types, format=_FORMAT
        )

    @property
    def event_source(self) -> Source:
        """The source of a view with windows."""
        (source,) = self.sources
        assert isinstance(source, Source)
        return source

    @property
    def longest_window_days(self) -> int:
        """Days before the end of the as-of date at which the longest window begins."""
        return max(window.reach_days for window in self.windows)

    @property
    def num_active_days(self) -> int | None:
        """A key has a row if it had an event in so many last days; None: if it ever had one."""
        if self.active_days == "ever":
            return None
        return self.longest_window_days if self.active_days == "longest" else self.active_days


def check_publish(owner: str, view: FeatureView) -> None:
    if view.publish is None:
        fits = view.schedule == Schedule()
        check_value(owner, "schedule", view.schedule, fits, "It is about publishing: declare `publish`, too.")
        return
    check_schedule(owner, view.schedule, view.sources, view.publish)
    view.publish.check_served_fields(owner, view.feature_names)
    for feature in view.served_features:
        if feature.type == "category":
            numbers = [each.name for each in view.feature_columns if each.type != "category"]
            raise SettingsError(
                f"{owner} publishes the category {feature.name!r}, and what it publishes are numbers.",
                remedy=f"Name the features to publish: `Publish(fields={tuple(numbers)!r})`.",
            )
    if len(view.served_columns) > _MOST_COLUMNS:
        raise SettingsError(
            f"{owner} publishes {len(view.served_columns):,} numbers a row.",
            remedy=f"Publish at most {_MOST_COLUMNS:,}: name the features in `Publish.fields`.",
        )


def check_windows(owner: str, view: FeatureView) -> None:
    if (view.features is None) == (not view.windows):
        which = "both features and windows" if view.windows else "neither features nor windows"
        raise SettingsError(f"{owner} has {which}.", remedy="Give one of the two.")
    if not view.windows:
        rule = "It is about windows: the function returns the keys that it wants."
        check_value(owner, "active_days", view.active_days, view.active_days == "longest", rule)
        return
    fits = not isinstance(view.active_days, int) or view.active_days >= 1
    check_value(owner, "active_days", view.active_days, fits, "Give 1 or more.")
    if len(view.sources) != 1 or not isinstance(view.sources[0], Source) or not view.sources[0].event_time:
        raise SettingsError(
            f"{owner} has windows over {', '.join(source.name for source in view.sources)}.",
            remedy="Give one source of events that are landing files; a pipeline may join several views.",
        )
    check_unique("column of the tiles", owner, [*view.key, *TILE_COLUMNS])
    columns = {column.name: column for column in view.event_source.columns}
    for window in view.windows:
        window.check_columns(owner, columns)
