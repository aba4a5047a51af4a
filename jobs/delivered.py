"""The sensor of a pipeline with sources that wait: it runs the newest night once all of them have delivered it."""

import dagster as dg

from forecache.pipeline import Served
from forecache.pipeline.as_of import newest_as_of
from jobs.common import AssetJob, delivered_name, late_sources, night_tags, not_yet
from resources.settings import SettingsResource

_EVERY_S = 300


def build_delivered_sensors(pipeline: Served, job: AssetJob) -> list[dg.SensorDefinition]:
    """One where a source of the pipeline has missing="wait", none elsewhere.

    A night is asked for once, and not at all where the job has a run of it: the schedule may have come first.
    """
    if all(source.missing != "wait" for source in pipeline.all_sources):
        return []

    @dg.sensor(
        name=delivered_name(job),
        job=job,
        minimum_interval_seconds=_EVERY_S,
        description=f"Runs {pipeline.name} for the newest as-of date once every source that waits has delivered it.",
    )
    def delivered(context: dg.SensorEvaluationContext, settings: SettingsResource) -> dg.RunRequest | dg.SkipReason:
        night = newest_as_of(pipeline)
        if night < pipeline.start:
            return dg.SkipReason(f"Pipeline {pipeline.name} starts on {pipeline.start}.")
        tags = night_tags(night, night)
        if context.instance.get_runs(dg.RunsFilter(job_name=job.name, tags=tags), limit=1):
            return dg.SkipReason(f"The night {night} was run.")
        late = late_sources(pipeline, settings.load(), night)
        if late:
            return dg.SkipReason(not_yet(job, night, late))
        return dg.RunRequest(run_key=night.isoformat(), tags=tags)

    return [delivered]
