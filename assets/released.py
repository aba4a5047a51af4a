"""Released: the champion, its transform and the contracts of its features, which answer requests as one unit.

A new release is written if the champion or the declaration has changed; recorded requests test it first. Views that no
other step of the run builds, because their sources begin on other days, are built and published here.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.features import checked
from assets.metadata import details_json, owners_of, stage_metadata
from assets.model import model_name
from assets.night import resolved_night
from assets.partitions import as_of_partitions
from assets.published import published_name
from assets.stage import Step, explained
from assets.waiting import ingest_waiting
from forecache.pipeline import FeatureView, Realtime, RegisteredModel
from resources.settings import SettingsResource
from resources.spark import SparkResource


def released_name(realtime: Realtime) -> str:
    return f"released_{realtime.name}"


def views_together(realtime: Realtime) -> tuple[FeatureView, ...]:
    """The looked-up views that can be in one job, which are those with the same range of partitions as the first."""
    if not realtime.views:
        return ()
    first = as_of_partitions(realtime.schedule, realtime.views[0].sources)
    return tuple(view for view in realtime.views if as_of_partitions(realtime.schedule, view.sources) == first)


def build_released(realtime: Realtime) -> dg.AssetsDefinition:
    """The current release of a real-time model."""
    together = views_together(realtime)
    apart = [view for view in realtime.views if view not in together]
    has_model = realtime.is_trained or isinstance(realtime.model, RegisteredModel)

    @dg.asset(
        name=released_name(realtime),
        deps=[
            *([model_name(realtime.training_pipeline)] if has_model else []),
            *(published_name(view) for view in realtime.views),
        ],
        description=f"{realtime.description}\n\n{__doc__}".strip(),
        group_name="serving",
        kinds={"http"},
        owners=owners_of(realtime),
    )
    @explained
    def released(context: dg.AssetExecutionContext, settings: SettingsResource, spark: SparkResource) -> Iterator[Any]:
        from forecache.lake.feature_tables.features import build_view
        from forecache.operations.publish import publish_night
        from forecache.operations.release import release

        step = Step(context, settings.load(), spark)
        night = resolved_night(realtime, context)
        for view in apart:
            for source in view.sources:
                ingest_waiting(step, source, last=night)
            step.run(build_view, step.session(), step.settings, view, [night], rebuild=step.rebuild)
            checked(step, view, [night])
            step.run(publish_night, step.settings, view, night=night)
        result = step.run(release, step.settings, realtime)
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(step.settings, result),
                "release": result.details["release"],
                "details": details_json(result),
            }
        )

    return released
