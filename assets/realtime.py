"""Real-time models: their training sets, and their releases."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.metadata import details_json, place_in_graph, stage_metadata
from assets.model import model_name
from assets.partitions import as_of_partitions, choose_training_night
from assets.published import published_name
from assets.raw import ingest_pending_files
from assets.stage import RunStep, explain_errors
from forecache.declare import FeatureView, Realtime, RegisteredModel
from resources.settings_resource import SettingsResource

_RELEASED = """\
Released: the champion, its transform and the contracts of its features, which answer requests as one unit.

A new release is written if the champion or the declaration has changed; recorded requests test it first. Views that no
other step of the run builds, because their sources begin on other days, are built and published here.
"""


def released_name(realtime: Realtime) -> str:
    return f"released_{realtime.name}"


def views_of_one_range(realtime: Realtime) -> tuple[FeatureView, ...]:
    """The looked-up views that can be in one job, which are those with the same range of partitions as the first."""
    if not realtime.views:
        return ()
    first = as_of_partitions(realtime.schedule, realtime.views[0].sources)
    return tuple(view for view in realtime.views if as_of_partitions(realtime.schedule, view.sources) == first)


def build_released(realtime: Realtime) -> dg.AssetsDefinition:
    """The current release of a real-time model."""
    together = views_of_one_range(realtime)
    apart = [view for view in realtime.views if view not in together]
    has_model = realtime.is_trained or isinstance(realtime.model, RegisteredModel)

    @dg.asset(
        name=released_name(realtime),
        deps=[
            *([model_name(realtime)] if has_model else []),
            *(published_name(view) for view in realtime.views),
        ],
        description=f"{realtime.description}\n\n{_RELEASED}".strip(),
        **place_in_graph(realtime, stage="serving"),
        pool=released_name(realtime),
        kinds={"http"},
    )
    @explain_errors
    def build_release(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.lake.features import build_view
        from forecache.lake.quality.stage_checks import check_features
        from forecache.operations.publish_night import publish_night
        from forecache.operations.release import release_model

        step = RunStep(context, settings.load())
        night = choose_training_night(realtime, context)
        for view in apart:
            for source in view.sources:
                ingest_pending_files(step, source, last=night)
            step.run_stage(build_view, step.settings, view, [night], rebuild=step.rebuild)
            check_features(step, view, [night])
            step.run_stage(publish_night, step.settings, view, night=night)
        result = step.run_stage(release_model, step.settings, realtime)
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(step.settings, result),
                "release": result.details["release"],
                "details": details_json(result),
            }
        )

    return build_release
