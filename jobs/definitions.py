"""The definitions that Dagster loads: assets, jobs, schedules and sensors of every pipeline of a project."""

import dagster as dg

from assets.features import build_features, build_joined_features
from assets.metadata import add_page_link
from assets.model import build_candidate, build_model, build_registered_model
from assets.predictions import build_predictions
from assets.published import build_published
from assets.raw import build_raw
from assets.sources import build_landing, build_landing_check, build_table
from assets.training_set import build_training_set
from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings, load_settings
from forecache.declare import (
    AnySource,
    FeatureView,
    Pipeline,
    Realtime,
    RegisteredModel,
    Schedule,
    Served,
    Stream,
    TableSource,
)
from forecache.declare.loading import read_project
from forecache.declare.project import Project
from forecache.declare.schedule import NEVER
from forecache.declare.served import FollowUp
from jobs.backfill import build_backfill_job
from jobs.elsewhere import build_elsewhere_sensor
from jobs.ingest import build_ingest_job, build_ingest_sensor
from jobs.nightly import (
    build_nightly_job,
    build_nightly_schedule,
    build_view_job,
    joins_that_build,
)
from jobs.realtime import realtime_definitions
from jobs.schedules import build_delivery_sensors
from jobs.streams import stream_definitions
from jobs.training import build_approval_job, build_full_job, build_training_job, build_training_schedule
from resources.dagster_internals import replace
from resources.settings_resource import SettingsResource

SOURCE_ASSETS = (build_landing, build_raw)
TRAINING_ASSETS = (build_training_set, build_candidate, build_model)
"""The stages of a pipeline that trains its model."""


def build_definitions(settings: Settings) -> dg.Definitions:
    """Definitions for the project's pipelines; a module that cannot be used is an asset of the group `broken`."""
    project = read_project(settings)
    resource = SettingsResource(
        home=str(settings.home_path), project=settings.project, environment=settings.environment
    )
    defined = dg.Definitions.merge(
        dg.Definitions(
            resources={"settings": resource},
            executor=dg.in_process_executor,
            jobs=[build_backfill_job()],
            sensors=[build_elsewhere_sensor()],
        ),
        *(source_definitions(source) for source in sources_of(project)),
        dg.Definitions(assets=features_of(project)),
        *(view_definitions(view, project) for view in project.views.values()),
        *(pipeline_definitions(pipeline) for pipeline in project.pipelines.values()),
        *(realtime_definitions(realtime) for realtime in project.realtime.values()),
        stream_definitions(project),
        *(define(project, settings) for define in find_hooks("orchestration")),
        dg.Definitions(assets=[broken_module(name, str(error)) for name, error in project.broken.items()]),
    )
    linked = dg.map_asset_specs(lambda spec: add_page_link(spec, settings), defined.assets or [])
    return replace(defined, assets=list(linked))


def broken_module(name: str, reason: str) -> dg.AssetSpec:
    """An asset that the graph shows in place of the pipelines of a module that cannot be used."""
    title = f"broken_{name.rpartition('.')[2]}"
    return dg.AssetSpec(title, group_name="broken", description=reason, kinds={"python"})


def source_definitions(source: AnySource) -> dg.Definitions:
    if isinstance(source, TableSource):
        return dg.Definitions(assets=[build_table(source)])
    job = build_ingest_job(source)
    assets = [build(source) for build in SOURCE_ASSETS]
    return dg.Definitions(
        assets=assets,
        asset_checks=[build_landing_check(source)],
        jobs=[job],
        sensors=[build_ingest_sensor(source, job)],
    )


def pipeline_definitions(pipeline: Pipeline) -> dg.Definitions:
    nightly = build_nightly_job(pipeline)
    defined = dg.Definitions(
        assets=pipeline_assets(pipeline),
        jobs=[nightly],
        schedules=[build_nightly_schedule(pipeline, nightly)],
        sensors=build_delivery_sensors(pipeline, nightly),
    )
    return dg.Definitions.merge(defined, training_definitions(pipeline)) if pipeline.is_trained else defined


def training_definitions(pipeline: Pipeline) -> dg.Definitions:
    """The further jobs of a pipeline that trains its model."""
    training = build_training_job(pipeline)
    approval = [build_approval_job(pipeline)] if pipeline.trained_gate.approval else []
    return dg.Definitions(
        jobs=[training, build_full_job(pipeline), *approval],
        schedules=[build_training_schedule(pipeline, training)] if pipeline.schedule.training != NEVER else [],
    )


def view_definitions(view: FeatureView, project: Project) -> dg.Definitions:
    """A published view: its version in the store, a job, and a schedule if no other job publishes the view."""
    job = build_view_job(view)
    asset = build_published(view, after=joins_that_build(view, project.pipelines.values()))
    if view.name not in project.standalone_views:
        return dg.Definitions(assets=[asset], jobs=[job])
    return dg.Definitions(
        assets=[asset],
        jobs=[job],
        schedules=[build_nightly_schedule(view, job)],
        sensors=build_delivery_sensors(view, job),
    )


def pipeline_assets(pipeline: Pipeline) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets of every stage after the features, and of optional parts of the declaration."""
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = [build_predictions(pipeline)]
    if pipeline.is_trained:
        assets += [build(pipeline) for build in TRAINING_ASSETS]
    if isinstance(pipeline.model, RegisteredModel):
        assets.append(build_registered_model(pipeline, pipeline.model))
    if pipeline.publish is not None:
        assets.append(build_published(pipeline))
    return assets


def sources_of(project: Project) -> list[AnySource]:
    """The sources of all that is declared, each once."""
    users: list[Served | Realtime | FollowUp | Stream] = [*project.nightly.values(), *project.views.values()]
    users += [*project.realtime.values(), *project.follow_ups, *project.streams.values()]
    return list({source.name: source for each in users for source in each.all_sources}.values())


def features_of(project: Project) -> list[dg.AssetsDefinition]:
    """The feature tables: those of views, each once, and those that are joined from them."""
    joined = [build_joined_features(pipeline) for pipeline in project.pipelines.values() if pipeline.is_joined]
    return [*(build_features(*each) for each in views_of(project)), *joined]


def views_of(project: Project) -> list[tuple[FeatureView, Schedule]]:
    """All feature views, each once, with the schedule of one of those that use it: their dates are equal."""
    alone = {name: (view, view.schedule) for name, view in project.standalone_views.items()}
    users = (*project.pipelines.values(), *project.realtime.values())
    return list((alone | {view.name: (view, each.schedule) for each in users for view in each.views}).values())


def project_definitions() -> dg.Definitions:
    """Definitions of the project that FORECACHE_PROJECT names."""
    return build_definitions(load_settings())


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions that Dagster loads for a project that has no module `definitions`."""
    return project_definitions()
