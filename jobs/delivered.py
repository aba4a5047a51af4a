"""The sensor of a pipeline with sources that wait: it runs what the schedule skipped once all have delivered it."""

from datetime import datetime, timezone

import dagster as dg

from forecache.pipeline.schedules.as_of import Scheduled, due_nights
from jobs.common import AssetJob, delivered_name, late_sources, night_tags, not_yet
from resources.settings import SettingsResource

_EVERY_S = 300
_FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def build_delivered_sensors(pipeline: Scheduled, job: AssetJob) -> list[dg.SensorDefinition]:
    """A sensor, if a source of the pipeline has missing="wait"; else an empty list.

    The sensor requests a run of the due dates once, unless the job already has a run of them, such as the schedule's. A
    failed run does not count: somebody may have started it before the delivery.
    """
    if all(source.missing != "wait" for source in pipeline.all_sources):
        return []

    @dg.sensor(
        name=delivered_name(job),
        job=job,
        minimum_interval_seconds=_EVERY_S,
        description=f"Runs {pipeline.name} for what was due last, once every source that waits has delivered it.",
    )
    def delivered(context: dg.SensorEvaluationContext, settings: SettingsResource) -> dg.RunRequest | dg.SkipReason:
        schedule = pipeline.schedule
        first, last = due_nights(pipeline, schedule.latest_run(datetime.now(timezone.utc)))
        if last < pipeline.start:
            return dg.SkipReason(f"Pipeline {pipeline.name} starts on {pipeline.start}.")
        tags = night_tags(first, last)
        statuses = [status for status in dg.DagsterRunStatus if status not in _FAILED]
        if context.instance.get_runs(dg.RunsFilter(job_name=job.name, tags=tags, statuses=statuses), limit=1):
            return dg.SkipReason(f"The night {last} was run.")
        late = late_sources(pipeline, settings.load(), first, last)
        if late:
            return dg.SkipReason(not_yet(job, late))
        return dg.RunRequest(run_key=last.isoformat(), tags=tags)

    return [delivered]
