"""The declarations of a project, by name."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forecache.base.errors import SettingsError
from forecache.base.output_kinds import DECLARED
from forecache.base.table_names import closest_hint, list_names
from forecache.declare.declaration import Pipeline
from forecache.declare.features.view import FeatureView
from forecache.declare.models.trainable import Trainable
from forecache.declare.realtime.lookups import DeclaredFallback, DotProduct, Precomputed, Stored
from forecache.declare.realtime.realtime import Realtime, stored_values_of
from forecache.declare.served import FollowUp, NightlyDeclaration, PluginDeclaration, PluginTable
from forecache.declare.sources.column import key_types
from forecache.declare.sources.extract import StreamDay
from forecache.declare.sources.source import Source
from forecache.declare.stream import Stream

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


Found = Mapping[str, Sequence[Declared]]
"""The declarations of each module."""
Errors = Iterator[tuple[str, SettingsError]]
"""Modules that cannot be used, each with the reason."""
Numbers = Pipeline | FeatureView | PluginTable
"""Declarations that may publish numbers."""


def conflict_errors(found: Found, *, is_whole: bool) -> dict[str, SettingsError]:
    """The error of each module whose declarations do not fit the others; `is_whole`: all modules could be loaded."""
    # A store or a stream may be declared in a broken module, so two of the checks need all modules.
    whole = (*_stream_day_errors(found), *_fallback_errors(found)) if is_whole else ()
    broken: dict[str, SettingsError] = {}
    for module, error in (*_date_errors(found), *_name_errors(found), *whole):
        broken.setdefault(module, error)
    return broken


def _name_errors(found: Found) -> Errors:
    """Modules that declare different pipelines, views or sources with the same name."""
    places: dict[tuple[str, str], dict[str, list[object]]] = defaultdict(lambda: defaultdict(list))
    for module, pipelines in found.items():
        for view in published_views(pipelines):
            places["pipeline", view.name][module].append(view)
        for pipeline in pipelines:
            if isinstance(pipeline, FeatureView):
                continue
            kind = pipeline.kind if isinstance(pipeline, FollowUp) else "pipeline"
            for named in pipeline.tables if isinstance(pipeline, NightlyDeclaration) else (pipeline,):
                places[kind, named.name][module].append(named)
            for source in pipeline.all_sources:
                undescribed = dataclasses.replace(source, description="", owner="")
                places["source", source.name][module].append(undescribed)
            for view in pipeline.views if isinstance(pipeline, (Pipeline, Realtime, Stream)) else ():
                places["feature view", view.name][module].append(view)
            if isinstance(pipeline, Pipeline) and pipeline.is_joined:  # its table is named like that of a view
                places["feature view", pipeline.name][module].append(pipeline)
    for (kind, name), by_module in places.items():
        declared = [each for some in by_module.values() for each in some]
        first, *others = declared
        by_identity = isinstance(first, Declared) and not isinstance(first, FeatureView)
        if not any(other is not first and (by_identity or other != first) for other in others):
            continue
        has_view = kind == "pipeline" and any(isinstance(each, FeatureView) for each in declared)
        error = SettingsError(
            f"Two {kind}s{' or published views' if has_view else ''} are named {name!r}, in {' and '.join(by_module)}.",
            remedy="Rename one, or declare it once and import it: the name is part of tables, jobs, the store and the "
            "route.",
        )
        yield from ((module, error) for module in by_module)


def published_views(declared: Iterable[Declared]) -> list[FeatureView]:
    """The published views among the declarations and of their pipelines, each once."""
    found: list[FeatureView] = []
    for each in declared:
        used = each.views if isinstance(each, (Pipeline, Realtime, Stream)) else ()
        views = [each] if isinstance(each, FeatureView) else used
        found += [view for view in views if view.publish is not None and view not in found]
    return found


def _date_errors(found: Found) -> Errors:
    """Modules whose pipelines share a feature view and have different as-of dates."""
    users: dict[str, list[tuple[str, Pipeline | Realtime | FeatureView]]] = defaultdict(list)
    for module, some in found.items():
        for pipeline in some:
            if isinstance(pipeline, (Pipeline, Realtime)):
                for view in pipeline.views:
                    users[view.name].append((module, pipeline))
                    if view.publish is not None:  # it has as-of dates of its own
                        users[view.name].append((module, view))
    for name, of_view in users.items():
        _, first = of_view[0]
        others = [each for _, each in of_view if each.schedule.as_of_text != first.schedule.as_of_text]
        for module, _ in of_view if others else ():
            who = f"Pipelines {first.name!r} and {others[0].name!r} share the"
            if isinstance(others[0], FeatureView):
                who = f"Pipeline {first.name!r} uses the published"
            yield (
                module,
                SettingsError(
                    f"{who} feature view {name!r}, and their as-of dates differ: {first.schedule.as_of_text}, and "
                    f"{others[0].schedule.as_of_text}.",
                    remedy="Give their schedules the same `every` and `on`, or one of them a view of its own.",
                ),
            )


def _fallback_errors(found: Found) -> Errors:
    """Modules of real-time models with a fallback that reads something not published, or not numbers."""
    declared = [each for some in found.values() for each in some]
    makers = [each for each in declared if isinstance(each, NightlyDeclaration)]
    numbers: Iterable[Numbers] = (
        *published_views(declared),
        *(each for each in declared if isinstance(each, Pipeline) and each.publish is not None),
        *(table for each in makers for table in each.tables if table.packed is not None),
    )
    published = {each.name: each for each in numbers}
    models = [(module, each) for module, some in found.items() for each in some if isinstance(each, Realtime)]
    for module, model in models:
        for fallback in model.fallbacks:
            try:
                _check_fallback(f"Realtime {model.name!r}", fallback, published)
                _check_types(model, stored_values_of((fallback,)), published)
            except SettingsError as error:
                yield module, error


def _check_fallback(owner: str, fallback: DeclaredFallback, published: Mapping[str, Numbers]) -> None:
    if isinstance(fallback, Precomputed):
        count = _count_numbers(owner, fallback.of, published)
        if count != 1:
            raise SettingsError(
                f"{owner} has a fallback that reads {count} numbers of {fallback.of.store!r} as one score.",
                remedy="Name one of them: Stored(field=...).",
            )
    if isinstance(fallback, DotProduct):
        user, item = _count_numbers(owner, fallback.user, published), _count_numbers(owner, fallback.item, published)
        if user != item:
            raise SettingsError(
                f"{owner} multiplies {user} numbers of {fallback.user.store!r} with {item} of {fallback.item.store!r}.",
                remedy="Give two vectors of one size, such as those of a `Recommender(vectors=True)`.",
            )


def _check_types(model: Realtime, read: Iterable[Stored], published: Mapping[str, Numbers]) -> None:
    """Refuse fields of another type than the key that they look up: no row would ever be found."""
    fields = {field.name: field.type for field in model.all_fields}
    for stored in read:
        declared = published[stored.store]
        if isinstance(declared, PluginTable):
            wanted = [declared.key_type]
        else:
            wanted = list(key_types(declared.key, declared.all_sources).values())
        for name, column, kind in zip(stored.key, declared.key, wanted, strict=True):
            if DECLARED.get(fields[name]) != DECLARED[kind]:
                raise SettingsError(
                    f"Realtime {model.name!r} has a fallback that reads {stored.store!r} by {name!r}, which is a "
                    f"{fields[name]}, and the {column!r} of its key is a {kind}.",
                    remedy="Declare the field with the type of the key, or read by another field.",
                )


def _count_numbers(owner: str, stored: Stored, published: Mapping[str, Numbers]) -> int:
    declared = published.get(stored.store)
    if declared is None:
        raise SettingsError(
            f"{owner} has a fallback that reads the store {stored.store!r}, which nothing publishes numbers to.",
            remedy=f"Numbers are published to {', '.join(sorted(published)) or 'none'}.",
        )
    if len(stored.key) != len(declared.key):
        raise SettingsError(
            f"{owner} has a fallback that reads {stored.store!r} by {', '.join(stored.key)}, and its key is "
            f"{', '.join(declared.key)}.",
            remedy="Name a field for each column of the key.",
        )
    sizes = {name: (declared.packed.sizes.get(name, 1) if declared.packed else 1) for name in declared.served_fields}
    if not stored.field:
        return sum(sizes.values())
    columns = {name: 1 for field, size in sizes.items() if size > 1 for name in (f"{field}_{i}" for i in range(size))}
    if stored.field not in {**columns, **sizes}:
        raise SettingsError(
            f"{owner} has a fallback that reads {stored.field!r} of {stored.store!r}, which has no such field.",
            remedy=f"{closest_hint(stored.field, sizes)}It has {list_names(sizes)}.",
        )
    return {**columns, **sizes}[stored.field]


def _stream_day_errors(found: Found) -> Errors:
    """Modules with sources with `extract=StreamDay(...)` whose stream is not declared or has other events."""
    streams = {each.name: each for some in found.values() for each in some if isinstance(each, Stream)}
    sources = ((module, source) for module, some in found.items() for each in some for source in each.all_sources)
    for module, source in sources:
        if isinstance(source, Source) and isinstance(source.extract, StreamDay):
            try:
                _check_stream_day(source, source.extract, streams)
            except SettingsError as error:
                yield module, error


def _check_stream_day(source: Source, extract: StreamDay, streams: Mapping[str, Stream]) -> None:
    stream = streams.get(extract.stream)
    if stream is None:
        raise SettingsError(
            f"Source {source.name!r} is extracted from the stream {extract.stream!r}, which no module declares.",
            remedy=f"Streams are: {', '.join(sorted(streams)) or 'none'}.",
        )
    if stream.source.name != source.name:
        raise SettingsError(
            f"Source {source.name!r} is extracted from the stream {stream.name!r}, whose topic carries the source "
            f"{stream.source.name!r}.",
            remedy="Name the stream whose topic carries the source.",
        )
    required = sorted(each.name for each in source.columns if each.required and each.name in stream.topic.without)
    if required:
        raise SettingsError(
            f"Source {source.name!r} is extracted from the stream {stream.name!r}, and requires the column "
            f"{required[0]!r}, which the messages of its topic do not have.",
            remedy="Declare it with required=False, or in a source of its own where it comes later.",
        )
