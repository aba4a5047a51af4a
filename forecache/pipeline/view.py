"""A feature view: the features of one key, computed once for all pipelines that use them."""

from dataclasses import dataclass
from datetime import date
from functools import cached_property

from forecache.errors import SettingsError
from forecache.pipeline.checking import check_fields
from forecache.pipeline.code.fingerprint import fingerprint
from forecache.pipeline.expectations import Expectation, check_columns
from forecache.pipeline.feature import Feature
from forecache.pipeline.features import Features, check_as_they_are
from forecache.pipeline.keys import check_pipeline_key
from forecache.pipeline.names import AS_OF, FEATURES, check_name, check_unique
from forecache.pipeline.table_source import AnySource, check_first_day, first_day


@dataclass(frozen=True)
class FeatureView:
    """Features of one key, in a table of their own that several pipelines may use.

    Attributes:
        name: Part of the name of its table, `features_<name>`.
        key: Columns that a row is about; at least one source declares each.
        sources: What the features are computed from.
        features: The function from rows to features.
        owner: Whom Dagster's UI names for the asset.
    """

    name: str
    key: tuple[str, ...]
    sources: tuple[AnySource, ...]
    features: Features
    description: str = ""
    owner: str = "ml-platform@example.com"

    def __post_init__(self) -> None:
        owner = f"FeatureView {self.name!r}"
        check_fields(owner, self)
        check_name("feature view", self.name)
        if not self.key or not self.sources:
            raise SettingsError(f"{owner} has no key or no source.", remedy="Declare at least one of each.")
        check_unique("source", owner, [source.name for source in self.sources])
        check_pipeline_key(owner, self.key, self.sources)
        check_as_they_are(owner, self.features, self.key, self.sources)
        check_first_day(owner, self.sources)
        names = [name for feature in self.feature_columns for name in feature.own_names]
        check_unique("feature", owner, [*self.key, AS_OF, *names])
        check_columns(f"{owner}, in its features,", self.expectations, [*self.key, AS_OF, *self.feature_names])

    @property
    def feature_columns(self) -> tuple[Feature, ...]:
        return self.features.columns

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.feature_columns)

    @property
    def expectations(self) -> tuple[Expectation, ...]:
        return self.features.expectations

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
    def fingerprint(self) -> str:
        """Hash of what the values of a night depend on besides the rows of the sources."""
        computed = [feature.computed for feature in self.feature_columns]
        return fingerprint(key=self.key, features=computed, compute=self.features.compute)
