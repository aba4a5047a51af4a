"""The declarations of a project, by name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from forecache.base.errors import SettingsError
from forecache.declare.declaration import Pipeline
from forecache.declare.features.view import FeatureView
from forecache.declare.models.trainable import Trainable
from forecache.declare.plugin_declarations import FollowUp, NightlyDeclaration, PluginDeclaration, PluginTable
from forecache.declare.realtime.realtime import Realtime
from forecache.declare.sources.source import Source
from forecache.declare.streams.stream import Stream

Declared = Pipeline | PluginDeclaration | Realtime | FeatureView | Stream
Published = Pipeline | PluginTable | FeatureView
Nightly = Pipeline | NightlyDeclaration | FeatureView | Realtime


@dataclass(frozen=True)
class Project:
    """The declarations of a project.

    Attributes:
        broken: The error of each module that cannot be used, by the name of the module.
        views: The published feature views.
        added: Declarations whose classes plug-ins have.
    """

    pipelines: dict[str, Pipeline]
    broken: dict[str, SettingsError]
    views: dict[str, FeatureView] = field(default_factory=dict)
    realtime: dict[str, Realtime] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    added: Sequence[PluginDeclaration] = ()

    def declared(self, kind: str) -> dict[str, Any]:
        """The declarations of a kind that a plug-in adds, such as "recommender", by name, in alphabetical order."""
        return {each.name: each for each in self.added if each.kind == kind}

    @property
    def follow_ups(self) -> list[FollowUp]:
        return [each for each in self.added if isinstance(each, FollowUp)]

    @property
    def nightly(self) -> dict[str, Nightly]:
        """The declarations with a scheduled nightly run, by name, in alphabetical order.

        Real-time models come last: their fallbacks may read what the others publish.
        """
        found: dict[str, Nightly] = {**self.pipelines, **self._makers, **self.standalone_views}
        return {name: found[name] for name in sorted(found)} | self.realtime

    @property
    def _makers(self) -> dict[str, NightlyDeclaration]:
        return {each.name: each for each in self.added if isinstance(each, NightlyDeclaration)}

    @property
    def trained_models(self) -> dict[str, Trainable]:
        """The pipelines and real-time models whose model is trained here, by name."""
        found: dict[str, Trainable] = {**self.pipelines, **self.realtime}
        return {name: each for name, each in found.items() if each.is_trained}

    @property
    def landed_sources(self) -> dict[str, Source]:
        """The sources with landing files, of all that has a nightly run and of follow-ups, by name."""
        users = (*self.nightly.values(), *self.follow_ups)
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
        """Pipelines, published feature views and the tables of plug-ins' declarations, by name."""
        found: dict[str, Published] = {**self.pipelines, **self.views}
        found |= {table.name: table for each in self._makers.values() for table in each.tables}
        return {name: found[name] for name in sorted(found)}
