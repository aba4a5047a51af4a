"""The jobs of a real-time model: its views and release every night, its training, its drift, and its parity."""

import dagster as dg

from assets.candidate import build_candidate
from assets.logged_drift import build_logged_drift, logged_drift_name
from assets.model import build_model, build_registered_model
from assets.parity import build_parity, parity_name
from assets.published import published_name
from assets.realtime_training_set import build_realtime_training_set
from assets.released import build_released, released_name, views_of_one_range
from forecache.base.plugins import is_installed
from forecache.declare import Realtime, RegisteredModel, TorchModel
from forecache.declare.schedule import NEVER
from jobs.approval import build_approval_job
from jobs.nightly import nightly_job_name
from jobs.rollout import rollout_definitions
from jobs.schedules import (
    AssetJob,
    build_asset_job,
    build_cron_schedule,
    build_delivery_sensors,
    build_newest_night_schedule,
)
from jobs.training import (
    build_training_schedule,
    build_tuning_job,
    full_job_name,
    training_job_name,
    training_selection,
)


def build_parity_job(realtime: Realtime) -> AssetJob:
    """The comparison of logged answers; a job of its own, so that publishing does not wait for it."""
    about = f"Compute yesterday's logged answers of {realtime.name} again, and compare every bit."
    return build_asset_job(f"{parity_name(realtime)}_job", about, [parity_name(realtime)])


def build_parity_schedule(realtime: Realtime, job: AssetJob) -> dg.ScheduleDefinition:
    """Half an hour after a day of the log has ended, which is at midnight UTC."""
    about = f"Half an hour after midnight UTC: parity of yesterday's answers of {realtime.name}."
    return build_cron_schedule(job, "30 0 * * *", about)


def realtime_nightly_selection(realtime: Realtime) -> dg.AssetSelection:
    views = views_of_one_range(realtime)
    tables, stores = [view.feature_table for view in views], [published_name(view) for view in views]
    return dg.AssetSelection.assets(*tables, *stores, released_name(realtime))


def realtime_training_selection(realtime: Realtime) -> dg.AssetSelection:
    return training_selection(realtime) | dg.AssetSelection.assets(released_name(realtime))


def build_realtime_nightly_job(realtime: Realtime) -> AssetJob:
    """Ingest, features, their stores, and a new release if something has changed."""
    about = f"Ingest what waits, then build and publish what {realtime.name} looks up, and release it."
    return build_asset_job(nightly_job_name(realtime), about, realtime_nightly_selection(realtime))


def build_realtime_training_jobs(realtime: Realtime) -> list[AssetJob]:
    """Training alone, and the first run: training, then the nightly job with the model that passed the gate."""
    training, night = realtime_training_selection(realtime), realtime_nightly_selection(realtime)
    first = f"Train {realtime.name} on past requests, let the gate decide, and release what passes."
    both = f"Train {realtime.name}, then build and publish what it looks up, and release it."
    return [
        build_asset_job(training_job_name(realtime), first, training),
        build_asset_job(full_job_name(realtime), both, training | night),
    ]


def parity_definitions(realtime: Realtime) -> dg.Definitions:
    """The comparison of logged answers; empty if the model has no log."""
    if realtime.log is None or not is_installed("parity"):
        return dg.Definitions()
    job = build_parity_job(realtime)
    return dg.Definitions(
        assets=[build_parity(realtime)], jobs=[job], schedules=[build_parity_schedule(realtime, job)]
    )  # fmt: skip


def logged_drift_definitions(realtime: Realtime) -> dg.Definitions:
    """The drift of each day's logged requests, after the day has ended in UTC and its last rows were committed."""
    about = f"Drift and expected performance of {realtime.name} on yesterday's logged requests."
    job = build_asset_job(f"monitor_{realtime.name}", about, [logged_drift_name(realtime)])
    about = f"Half an hour after midnight (UTC): what moved in {realtime.name}."
    schedule = build_cron_schedule(job, "30 0 * * *", about)
    return dg.Definitions(assets=[build_logged_drift(realtime)], jobs=[job], schedules=[schedule])


def realtime_definitions(realtime: Realtime) -> dg.Definitions:
    """The assets, jobs and schedules of a real-time model; those of its views are defined once for all their users."""
    nightly = build_realtime_nightly_job(realtime)
    about = f"{realtime.schedule.cron} ({realtime.schedule.time_zone}): what {realtime.name} looks up, and its release."
    own = dg.Definitions(
        assets=[build_released(realtime)],
        jobs=[nightly],
        schedules=[build_newest_night_schedule(realtime, nightly, description=about)] if realtime.all_sources else [],
        sensors=build_delivery_sensors(realtime, nightly),
    )
    defined = dg.Definitions.merge(own, parity_definitions(realtime))
    if realtime.rollout is not None and is_installed("rollouts"):
        defined = dg.Definitions.merge(defined, rollout_definitions(realtime))
    if realtime.log is not None and realtime.is_trained and is_installed("drift"):
        defined = dg.Definitions.merge(defined, logged_drift_definitions(realtime))
    if isinstance(realtime.model, RegisteredModel):
        watched = dg.Definitions(assets=[build_registered_model(realtime, realtime.model)])
        return dg.Definitions.merge(defined, watched)
    if not realtime.is_trained:
        return defined
    training, full = build_realtime_training_jobs(realtime)
    searches = [build_tuning_job(realtime)] if isinstance(realtime.model, TorchModel) and is_installed("tune") else []
    approval = [build_approval_job(realtime)] if realtime.trained_gate.approval else []
    trained = dg.Definitions(
        assets=[build_realtime_training_set(realtime), build_candidate(realtime), build_model(realtime)],
        jobs=[training, full, *searches, *approval],
        schedules=[build_training_schedule(realtime, training)] if realtime.schedule.training != NEVER else [],
    )
    return dg.Definitions.merge(defined, trained)
