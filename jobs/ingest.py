"""Ingestion of a source: a job over landing days, and a sensor that starts it when files arrive."""

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from assets.partitions import source_partitions
from assets.sources import landing_events
from forecache.declare import Source
from forecache.kit.process.wakes import LANDED_FILES
from jobs.schedules import AssetJob, build_asset_job, partition_tags
from resources.settings_resource import SettingsResource

if TYPE_CHECKING:
    from forecache.lake.ingest.landing import LandingFile


def ingest_job_name(source: Source) -> str:
    return f"{source.name}_ingest"


def build_ingest_job(source: Source) -> AssetJob:
    """Landing files of some days into the raw and the quarantine table."""
    about = f"Ingest the landing files of {source.name}; days that are in already cost nothing."
    return build_asset_job(ingest_job_name(source), about, [source.raw_table, source.quarantine_table])


def build_ingest_sensor(source: Source, job: AssetJob) -> dg.SensorDefinition:
    """Requests one run for each range of days with new files; the cursor is a digest of those requested last."""

    @dg.sensor(
        name=f"{source.name}_landed",
        job=job,
        minimum_interval_seconds=int(LANDED_FILES.every_s),
        description=f"Ingests files of {source.name} as they arrive in the landing zone.",
    )
    def request_ingestion(
        context: dg.SensorEvaluationContext, settings: SettingsResource
    ) -> dg.SensorResult | dg.SkipReason:
        from forecache.lake.ingest.ingested_files import day_ranges, pending_days, pending_files
        from forecache.lake.ingest.landing import list_landing
        from forecache.lake.quality.pending_files import days_to_extract

        current = settings.load()
        # A day's partition exists once the day is over; the files of today wait until then.
        newest = source_partitions(source).get_last_partition_key()
        landing = list_landing(current, source)
        pending = pending_files(current, source, landed=landing)
        last = date.fromisoformat(newest) if newest else None
        days = pending_days(pending, first=source.start, last=last) if last else set()
        days |= set(days_to_extract(current, source, first=source.start, last=last)) if last else set()
        if not days:
            return dg.SkipReason(f"No new file in the landing zone of {source.name}.")
        digest = _digest_files(pending, days)
        if digest == context.cursor:
            return dg.SkipReason(f"The {len(pending)} waiting files were requested before: see the runs of {job.name}.")
        requests = [
            dg.RunRequest(run_key=f"{digest} {first}", tags=partition_tags(first, last))
            for first, last in day_ranges(days, others={file.day for file in landing})
        ]
        events = landing_events(source, landing)
        return dg.SensorResult(run_requests=requests, cursor=digest, asset_events=events)

    return request_ingestion


def _digest_files(files: Sequence["LandingFile"], days: set[date]) -> str:
    listing = [f"{file.name} {file.size_bytes} {file.modified_at}" for file in files]
    return hashlib.sha256("\n".join([*listing, *map(str, sorted(days))]).encode()).hexdigest()[:16]
