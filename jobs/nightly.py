"""The nightly job of a pipeline: what waits is ingested, then features, predictions and a published version.

It is for a night or a range of nights. The step of the features ingests: sources may begin on other days than the
pipeline, and a job of Dagster has assets of one range of partitions only.
"""

import dagster as dg

from assets.drift_report import drift_report_name
from assets.partitions import as_of_partitions, pipeline_partitions
from assets.published import published_name
from forecache.pipeline import Pipeline, Recommender, Served
from forecache.pipeline.recommenders.vectors import second_tables_of
from jobs.common import AssetJob, newest_night_schedule


def nightly_job_name(pipeline: Served) -> str:
    return f"nightly_{pipeline.name}"


def nightly_selection(pipeline: Pipeline) -> dg.AssetSelection:
    # A view whose sources begin on other days has other partitions; the step of the join builds it.
    own, schedule = pipeline_partitions(pipeline), pipeline.schedule
    views = [view for view in pipeline.views if as_of_partitions(schedule, view.sources) == own]
    tables = dict.fromkeys([*(view.feature_table for view in views), pipeline.feature_table])
    assets = [*tables, pipeline.prediction_table]
    if pipeline.publish is not None:
        assets.append(published_name(pipeline))
    if pipeline.drift.report_rows:
        assets.append(drift_report_name(pipeline))
    return dg.AssetSelection.assets(*assets)


def build_nightly_job(pipeline: Pipeline) -> AssetJob:
    """Everything that a night needs once its files have landed; a range of nights is one run."""
    return dg.define_asset_job(
        nightly_job_name(pipeline),
        selection=nightly_selection(pipeline),
        description=f"Ingest what waits, then features, predictions and the published version of {pipeline.name}.",
        executor_def=dg.in_process_executor,
    )


def build_recommender_job(recommender: Recommender) -> AssetJob:
    """Ingest, fit, rank and publish."""
    served = (recommender, *second_tables_of(recommender))
    assets = [name for each in served for name in (each.prediction_table, published_name(each))]
    return dg.define_asset_job(
        nightly_job_name(recommender),
        selection=dg.AssetSelection.assets(*assets),
        description=f"Ingest what waits, then fit {recommender.name}, rank for every user, and publish the lists.",
        executor_def=dg.in_process_executor,
    )


def build_nightly_schedule(pipeline: Served, job: AssetJob) -> dg.ScheduleDefinition:
    """The as-of dates that have ended since the run before; for a pipeline whose data have ended, their last one."""
    schedule = pipeline.schedule
    about = (
        f"{schedule.cron} ({schedule.time_zone}): {pipeline.name} for the as-of dates that have ended since the run "
        f"before ({schedule.words})."
    )
    return newest_night_schedule(pipeline, job, description=about)
