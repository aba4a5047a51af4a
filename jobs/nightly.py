"""The nightly job of a pipeline, for an as-of date or a range: ingest what waits, build, score, publish.

The step of the features ingests: sources may begin on other days, and a job has assets of one range of partitions.
"""

from collections.abc import Iterable

import dagster as dg

from assets.partitions import as_of_partitions, pipeline_partitions
from assets.published import published_name
from forecache.base.plugins import find_hooks
from forecache.declare import FeatureView, Pipeline, Served
from jobs.schedules import AssetJob, build_asset_job, build_newest_night_schedule


def nightly_job_name(pipeline: Served) -> str:
    return f"{pipeline.name}_nightly"


def nightly_selection(pipeline: Pipeline) -> dg.AssetSelection:
    views = [view for view in pipeline.views if _is_in_job(view, pipeline)]
    tables = dict.fromkeys([*(view.feature_table for view in views), pipeline.feature_table])
    assets = [*tables, pipeline.prediction_table]
    assets += [published_name(each) for each in (*pipeline.views, pipeline) if each.publish is not None]
    of_plugins = [name for list_assets in find_hooks("nightly_assets") for name in list_assets(pipeline)]
    return dg.AssetSelection.assets(*assets, *of_plugins)


def _is_in_job(view: FeatureView, pipeline: Pipeline) -> bool:
    """Tell if a view has the partitions of the pipeline; else the step of the join builds it."""
    return as_of_partitions(pipeline.schedule, view.sources) == pipeline_partitions(pipeline)


def joins_that_build(view: FeatureView, pipelines: Iterable[Pipeline]) -> list[str]:
    """Joined feature tables whose step builds the view, because the view is not in the job of their pipeline."""
    users = [each for each in pipelines if each.is_joined and view in each.views]
    return [each.feature_table for each in users if not _is_in_job(view, each)]


def build_nightly_job(pipeline: Pipeline) -> AssetJob:
    """All stages of an as-of date whose files have landed; a range of dates is one run."""
    about = f"Ingest what waits, then features, predictions and the published version of {pipeline.name}."
    return build_asset_job(nightly_job_name(pipeline), about, nightly_selection(pipeline))


def build_view_job(view: FeatureView) -> AssetJob:
    """Ingest, build the features and publish them."""
    about = f"Ingest what waits, then the features of {view.name}, and publish them."
    return build_asset_job(nightly_job_name(view), about, [view.feature_table, published_name(view)])


def build_nightly_schedule(pipeline: Served, job: AssetJob) -> dg.ScheduleDefinition:
    """The as-of dates that have ended since the previous run; for a pipeline whose data have ended, their last one."""
    schedule = pipeline.schedule
    about = (
        f"{schedule.cron} ({schedule.time_zone}): {pipeline.name} for the as-of dates that have ended since the run "
        f"before ({schedule.as_of_text})."
    )
    return build_newest_night_schedule(pipeline, job, description=about)
