"""The jobs of a real-time model: its views and release every night, its training, its drift, and its parity."""

import dagster as dg

from assets.model import build_candidate, build_model, build_registered_model
from assets.published import published_name
from assets.realtime import build_released, released_name, views_of_one_range
from forecache.base.plugins import is_installed
from forecache.declare import Realtime, RegisteredModel
from forecache.declare.schedule import NEVER
from jobs.nightly import nightly_job_name
from jobs.schedules import (
    AssetJob,
    build_asset_job,
    build_delivery_sensors,
    build_newest_night_schedule,
)
from jobs.training import (
    build_approval_job,
    build_training_schedule,
    full_job_name,
    training_job_name,
    training_selection,
)


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


def realtime_definitions(realtime: Realtime) -> dg.Definitions:
    """The assets, jobs and schedules of a real-time model; those of its views are defined once for all their users."""
    nightly = build_realtime_nightly_job(realtime)
    about = f"{realtime.schedule.cron} ({realtime.schedule.time_zone}): what {realtime.name} looks up, and its release."
    defined = dg.Definitions(
        assets=[build_released(realtime)],
        jobs=[nightly],
        schedules=[build_newest_night_schedule(realtime, nightly, description=about)] if realtime.all_sources else [],
        sensors=build_delivery_sensors(realtime, nightly),
    )
    if isinstance(realtime.model, RegisteredModel):
        watched = dg.Definitions(assets=[build_registered_model(realtime, realtime.model)])
        return dg.Definitions.merge(defined, watched)
    if not realtime.is_trained or not is_installed("historical_features"):  # which makes its training set
        return defined
    training, full = build_realtime_training_jobs(realtime)
    approval = [build_approval_job(realtime)] if realtime.trained_gate.approval else []
    trained = dg.Definitions(
        assets=[build_candidate(realtime), build_model(realtime)],
        jobs=[training, full, *approval],
        schedules=[build_training_schedule(realtime, training)] if realtime.schedule.training != NEVER else [],
    )
    return dg.Definitions.merge(defined, trained)
