"""The job that advances a rollout, and the sensor that starts it once a minute while a rollout is running."""

import dagster as dg

from assets.rollout import build_rollout, rollout_name
from forecache.base.plugins import load_hook
from forecache.declare import Realtime
from forecache.kit.process.wakes import ROLLOUT_STEPS
from jobs.schedules import AssetJob, build_asset_job
from resources.dagster_internals import NOT_FINISHED_STATUSES
from resources.settings import SettingsResource


def rollout_definitions(realtime: Realtime) -> dg.Definitions:
    """The asset, job and sensor of the rollouts of a real-time model."""
    job = build_rollout_job(realtime)
    return dg.Definitions(
        assets=[build_rollout(realtime)], jobs=[job], sensors=[build_rollout_sensor(realtime, job)]
    )  # fmt: skip


def build_rollout_job(realtime: Realtime) -> AssetJob:
    # Dagster makes an op of each asset and a graph of each job, whose names must differ.
    about = f"Look once at the rollout of {realtime.name}: wait, go on, or return its release."
    return build_asset_job(f"{rollout_name(realtime)}_job", about, [rollout_name(realtime)])


def build_rollout_sensor(realtime: Realtime, job: AssetJob) -> dg.SensorDefinition:
    """The rollout sensor; it is on by default, because a rollout that is not advanced never ends."""

    @dg.sensor(
        name=f"{rollout_name(realtime)}_under_way",
        job=job,
        minimum_interval_seconds=int(ROLLOUT_STEPS.every_s),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Looks at the rollout of {realtime.name} once a minute while one is under way.",
    )
    def request_look(context: dg.SensorEvaluationContext, settings: SettingsResource) -> dg.RunRequest | dg.SkipReason:
        if not load_hook("rollouts", "running_rollouts")(settings.load(), [realtime.name]):
            return dg.SkipReason("No rollout is under way.")
        running = dg.RunsFilter(job_name=job.name, statuses=NOT_FINISHED_STATUSES)
        if context.instance.get_runs(filters=running, limit=1):
            return dg.SkipReason("A look is under way.")
        return dg.RunRequest()

    return request_look
