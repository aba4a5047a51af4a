"""The declarations of a project, by name."""

from dataclasses import dataclass, field

from forecache.base.errors import SettingsError
from forecache.declare.declaration import Pipeline
from forecache.declare.features.view import FeatureView
from forecache.declare.mailings.mailing import Mailing
from forecache.declare.models.trainable import Trainable
from forecache.declare.realtime.realtime import Realtime
from forecache.declare.recommenders.recommender import Recommender
from forecache.declare.recommenders.second_tables import SimilarItems, Vectors, second_tables_of
from forecache.declare.sources.source import Source
from forecache.declare.streams.stream import Stream

Declared = Pipeline | Recommender | Realtime | Mailing | FeatureView | Stream
Published = Pipeline | Recommender | SimilarItems | Vectors | FeatureView
Nightly = Pipeline | Recommender | FeatureView | Realtime


@dataclass(frozen=True)
class Project:
    """The declarations of a project.

    Attributes:
        pipelines, recommenders: By name, in alphabetical order.
        broken: The error of each module that cannot be used, by the name of the module.
        mailings: By name, in alphabetical order.
        views: The published feature views, by name, in alphabetical order.
        realtime: The real-time models, by name, in alphabetical order.
        streams: By name, in alphabetical order.
    """

    pipelines: dict[str, Pipeline]
    broken: dict[str, SettingsError]
    recommenders: dict[str, Recommender] = field(default_factory=dict)
    mailings: dict[str, Mailing] = field(default_factory=dict)
    views: dict[str, FeatureView] = field(default_factory=dict)
    realtime: dict[str, Realtime] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)

    @property
    def nightly(self) -> dict[str, Nightly]:
        """The declarations with a scheduled nightly run, by name, in alphabetical order.

        Real-time models come last: their fallbacks may read what the others publish.
        """
        found: dict[str, Nightly] = {**self.pipelines, **self.recommenders, **self.standalone_views}
        return {name: found[name] for name in sorted(found)} | self.realtime

    @property
    def trained_models(self) -> dict[str, Trainable]:
        """The pipelines and real-time models whose model is trained here, by name."""
        found: dict[str, Trainable] = {**self.pipelines, **self.realtime}
        return {name: each for name, each in found.items() if each.is_trained}

    @property
    def landed_sources(self) -> dict[str, Source]:
        """The sources with landing files, of all that has a nightly run and of mailings, by name."""
        users: list[Nightly | Mailing] = [*self.nightly.values(), *self.mailings.values()]
        found = {source.name: source for each in users for source in each.all_sources if isinstance(source, Source)}
        return dict(sorted(found.items()))

    @property
    def standalone_views(self) -> dict[str, FeatureView]:
        """The published views that are not built in the run of a pipeline or of a real-time model."""
        users: list[Pipeline | Realtime] = [*self.pipelines.values(), *self.realtime.values()]
        used = {view.name for each in users for view in each.views}
        return {name: view for name, view in self.views.items() if name not in used}

    @property
    def publishable(self) -> dict[str, Published]:
        """Pipelines, recommenders with their second tables, and published feature views, by name."""
        second = [table for each in self.recommenders.values() for table in second_tables_of(each)]
        found: dict[str, Published] = {**self.pipelines, **self.recommenders, **self.views}
        found |= {each.name: each for each in second}
        return {name: found[name] for name in sorted(found)}
