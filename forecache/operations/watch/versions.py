"""Alerts about served versions that are older than their declaration allows."""

from collections.abc import Iterator
from datetime import datetime, timezone

from forecache.alerts.alert import Alert
from forecache.pipeline.project import Project
from forecache.settings import Settings
from forecache.store.checkup import stores_here


def stale_versions(settings: Settings, project: Project) -> Iterator[Alert]:
    """An alert for each declared store whose current version is overdue."""
    served, now = project.served, datetime.now(timezone.utc)
    for store in stores_here(settings):
        manifest = store.current() if store.pipeline in served else None
        if manifest is None or not manifest.is_overdue(now):
            continue
        age_h = (now - manifest.as_of_end).total_seconds() / 3600
        yield Alert(
            "version_stale",
            store.pipeline,
            "critical" if manifest.policy.on_stale == "refuse" else "warning",
            f"Version {manifest.version} of {store.pipeline}, as of {manifest.as_of}, is {age_h:,.0f} hours old; "
            f"{manifest.policy.max_age_h:g} are allowed.",
            {
                "version": manifest.version,
                "as_of": manifest.as_of,
                "max_age_h": manifest.policy.max_age_h,
                "on_stale": manifest.policy.on_stale,
            },
            manifest.stale_after,
        )
