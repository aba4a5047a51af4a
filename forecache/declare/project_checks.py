"""Check that the declarations of a project fit together: names, shared views, stores that are read, streams.

Each check returns the errors of the modules whose declarations do not fit.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from forecache.base.errors import SettingsError
from forecache.base.output_kinds import DECLARED
from forecache.declare.declaration import Pipeline
from forecache.declare.features.view import FeatureView
from forecache.declare.mailings.mailing import Mailing
from forecache.declare.project import Declared
from forecache.declare.realtime.check_realtime import stored_values_of
from forecache.declare.realtime.ladder import DotProduct, LastNight, Rung, Stored
from forecache.declare.realtime.realtime import Realtime
from forecache.declare.recommenders.recommender import Recommender
from forecache.declare.recommenders.second_tables import Vectors, second_tables_of
from forecache.declare.sources.keys import key_types
from forecache.declare.sources.source import Source
from forecache.declare.sources.stream_day import StreamDay
from forecache.declare.streams.stream import Stream

Numbers = Pipeline | FeatureView | Vectors
"""Declarations that may publish numbers."""


def name_conflict_errors(found: Mapping[str, Sequence[Declared]]) -> dict[str, SettingsError]:
    """Errors, by module, of modules that declare different pipelines, views or sources with the same name."""
    places: dict[tuple[str, str], dict[str, list[object]]] = defaultdict(lambda: defaultdict(list))
    for module, pipelines in found.items():
        for view in published_views(pipelines):
            places["pipeline", view.name][module].append(view)
        for pipeline in pipelines:
            if isinstance(pipeline, FeatureView):
                continue
            kind = "mailing" if isinstance(pipeline, Mailing) else "pipeline"
            places[kind, pipeline.name][module].append(pipeline)
            for second in second_tables_of(pipeline) if isinstance(pipeline, Recommender) else ():
                places[kind, second.name][module].append(second)
            for source in pipeline.all_sources:
                undescribed = dataclasses.replace(source, description="", owner="")
                places["source", source.name][module].append(undescribed)
            for view in pipeline.views if isinstance(pipeline, (Pipeline, Realtime, Stream)) else ():
                places["feature view", view.name][module].append(view)
            if isinstance(pipeline, Pipeline) and pipeline.is_joined:  # its table is named like that of a view
                places["feature view", pipeline.name][module].append(pipeline)
    broken: dict[str, SettingsError] = {}
    for (kind, name), by_module in places.items():
        if _are_different(value for values in by_module.values() for value in values):
            where = " and ".join(by_module)
            for module in by_module:
                views = [each for values in by_module.values() for each in values if isinstance(each, FeatureView)]
                also = " or published views" if kind == "pipeline" and views else ""
                error = SettingsError(
                    f"Two {kind}s{also} are named {name!r}, in {where}.",
                    remedy="Rename one, or declare it once and import it: the name is part of tables, jobs, the store "
                    "and the route.",
                )
                broken.setdefault(module, error)
    return broken


def published_views(declared: Iterable[Declared]) -> list[FeatureView]:
    """The published views among the declarations and of their pipelines, each once."""
    found: list[FeatureView] = []
    for each in declared:
        used = each.views if isinstance(each, (Pipeline, Realtime, Stream)) else ()
        views = [each] if isinstance(each, FeatureView) else used
        found += [view for view in views if view.publish is not None and view not in found]
    return found


def date_conflict_errors(found: Mapping[str, Sequence[Declared]]) -> dict[str, SettingsError]:
    """Errors, by module, of pipelines that share a feature view and have different as-of dates."""
    users: dict[str, list[tuple[str, Pipeline | Realtime | FeatureView]]] = defaultdict(list)
    for module, some in found.items():
        for pipeline in some:
            if isinstance(pipeline, (Pipeline, Realtime)):
                for view in pipeline.views:
                    users[view.name].append((module, pipeline))
                    if view.publish is not None:  # it has as-of dates of its own
                        users[view.name].append((module, view))
    broken = {}
    for name, of_view in users.items():
        _, first = of_view[0]
        others = [each for _, each in of_view if each.schedule.as_of_text != first.schedule.as_of_text]
        for module, _ in of_view if others else ():
            who = f"Pipelines {first.name!r} and {others[0].name!r} share the"
            if isinstance(others[0], FeatureView):
                who = f"Pipeline {first.name!r} uses the published"
            broken[module] = SettingsError(
                f"{who} feature view {name!r}, and their as-of dates differ: {first.schedule.as_of_text}, and "
                f"{others[0].schedule.as_of_text}.",
                remedy="Give their schedules the same `every` and `on`, or one of them a view of its own.",
            )
    return broken


def _are_different(values: Iterable[object]) -> bool:
    first, *others = values
    by_identity = isinstance(first, Declared) and not isinstance(first, FeatureView)
    return any(other is not first and (by_identity or other != first) for other in others)


def fallback_errors(found: Mapping[str, Sequence[Declared]]) -> dict[str, SettingsError]:
    """Errors, by module, of real-time models with a fallback that reads something not published, or not numbers."""
    declared = [each for some in found.values() for each in some]
    published = _number_publishers(declared)
    broken: dict[str, SettingsError] = {}
    for module, some in found.items():
        for model in some:
            if not isinstance(model, Realtime):
                continue
            for rung in model.ladder:
                try:
                    _check_fallback(f"Realtime {model.name!r}", rung, published)
                    _check_types(model, stored_values_of((rung,)), published)
                except SettingsError as error:
                    broken.setdefault(module, error)
    return broken


def _number_publishers(declared: Sequence[Declared]) -> dict[str, Numbers]:
    recommenders = [each for each in declared if isinstance(each, Recommender)]
    tables = (table for each in recommenders for table in second_tables_of(each))
    every: Iterable[Numbers] = (
        *published_views(declared),
        *(each for each in declared if isinstance(each, Pipeline) and each.publish is not None),
        *(table for table in tables if isinstance(table, Vectors)),
    )
    return {each.name: each for each in every}


def _check_fallback(owner: str, rung: Rung, published: Mapping[str, Numbers]) -> None:
    if isinstance(rung, LastNight):
        count = _count_numbers(owner, rung.of, published)
        if count != 1:
            raise SettingsError(
                f"{owner} has a rung that reads {count} numbers of {rung.of.store!r} as one score.",
                remedy="Name one of them: Stored(field=...).",
            )
    if isinstance(rung, DotProduct):
        user, item = _count_numbers(owner, rung.user, published), _count_numbers(owner, rung.item, published)
        if user != item:
            raise SettingsError(
                f"{owner} multiplies {user} numbers of {rung.user.store!r} with {item} of {rung.item.store!r}.",
                remedy="Give two vectors of one size, such as those of a `Recommender(vectors=True)`.",
            )


def _check_types(model: Realtime, read: Iterable[Stored], published: Mapping[str, Numbers]) -> None:
    """Refuse fields of another type than the key that they look up: no row would ever be found."""
    fields = {field.name: field.type for field in model.all_fields}
    for stored in read:
        declared = published[stored.store]
        if isinstance(declared, Vectors):
            wanted = [declared.key_type]
        else:
            wanted = list(key_types(declared.key, declared.all_sources).values())
        for name, column, kind in zip(stored.key, declared.key, wanted, strict=True):
            if DECLARED.get(fields[name]) != DECLARED[kind]:
                raise SettingsError(
                    f"Realtime {model.name!r} has a rung that reads {stored.store!r} by {name!r}, which is a "
                    f"{fields[name]}, and the {column!r} of its key is a {kind}.",
                    remedy="Declare the field with the type of the key, or read by another field.",
                )


def _count_numbers(owner: str, stored: Stored, published: Mapping[str, Numbers]) -> int:
    """Count the numbers that a fallback reads from a store."""
    declared = published.get(stored.store)
    if declared is None:
        raise SettingsError(
            f"{owner} has a rung that reads the store {stored.store!r}, which nothing publishes numbers to.",
            remedy=f"Numbers are published to {', '.join(sorted(published)) or 'none'}.",
        )
    if len(stored.key) != len(declared.key):
        raise SettingsError(
            f"{owner} has a rung that reads {stored.store!r} by {', '.join(stored.key)}, and its key is "
            f"{', '.join(declared.key)}.",
            remedy="Name a field for each column of the key.",
        )
    sizes = {name: (declared.packed.sizes.get(name, 1) if declared.packed else 1) for name in declared.served_fields}
    if not stored.field:
        return sum(sizes.values())
    columns = {name: 1 for field, size in sizes.items() if size > 1 for name in (f"{field}_{i}" for i in range(size))}
    if stored.field not in {**columns, **sizes}:
        raise SettingsError(
            f"{owner} has a rung that reads {stored.field!r} of {stored.store!r}, which has no such field.",
            remedy=f"It has {', '.join(sizes)}.",
        )
    return {**columns, **sizes}[stored.field]


def stream_day_errors(found: Mapping[str, Sequence[Declared]]) -> dict[str, SettingsError]:
    """Errors, by module, of sources with `extract=StreamDay(...)` whose stream is not declared or has other events."""
    streams = {each.name: each for some in found.values() for each in some if isinstance(each, Stream)}
    broken: dict[str, SettingsError] = {}
    for module, some in found.items():
        for source in _landed_sources(some):
            if isinstance(source.extract, StreamDay):
                error = _stream_day_error(source, source.extract, streams)
                if error is not None:
                    broken.setdefault(module, error)
    return broken


def _landed_sources(declared: Sequence[Declared]) -> Iterator[Source]:
    for each in declared:
        for source in each.all_sources:
            if isinstance(source, Source):
                yield source


def _stream_day_error(source: Source, extract: StreamDay, streams: Mapping[str, Stream]) -> SettingsError | None:
    stream = streams.get(extract.stream)
    if stream is None:
        listed = ", ".join(sorted(streams)) or "none"
        return SettingsError(
            f"Source {source.name!r} is extracted from the stream {extract.stream!r}, which no module declares.",
            remedy=f"Streams are: {listed}.",
        )
    if stream.source.name != source.name:
        return SettingsError(
            f"Source {source.name!r} is extracted from the stream {stream.name!r}, whose topic carries the source "
            f"{stream.source.name!r}.",
            remedy="Name the stream whose topic carries the source.",
        )
    required = sorted(
        column.name for column in source.columns if column.required and column.name in stream.topic.without
    )
    if required:
        return SettingsError(
            f"Source {source.name!r} is extracted from the stream {stream.name!r}, and requires the column "
            f"{required[0]!r}, which the messages of its topic do not have.",
            remedy="Declare it with required=False, or in a source of its own where it comes later.",
        )
    return None
