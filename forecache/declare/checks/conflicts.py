"""Find modules of a project whose declarations conflict: equal names, or a shared view with other as-of dates."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from forecache.base.errors import SettingsError
from forecache.declare.declaration import Pipeline
from forecache.declare.features.view import FeatureView
from forecache.declare.mailings.mailing import Mailing
from forecache.declare.realtime.realtime import Realtime
from forecache.declare.recommenders.recommender import Recommender
from forecache.declare.recommenders.second_tables import second_tables_of
from forecache.declare.streams.stream import Stream

Declared = Pipeline | Recommender | Realtime | Mailing | FeatureView | Stream


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
