"""Served versions that are older than their declaration allows."""

from collections.abc import Iterator
from datetime import date, datetime, timezone

from forecache.alerts.alert import Alert
from forecache.pipeline.project import Project, Published
from forecache.settings import Settings
from forecache.store.checkup import stores_here
from forecache.store.manifest import Manifest


def stale_versions(settings: Settings, project: Project) -> Iterator[Alert]:
    """An alert for each store whose current version is stale. Where the data have ended, its last one never is."""
    served, now = project.served, datetime.now(timezone.utc)
    for store in stores_here(settings):
        declared, manifest = served.get(store.pipeline), None
        if declared is not None:
            manifest = store.current()
        if declared is None or manifest is None or now < manifest.stale_after:
            continue
        if is_last(declared, manifest):
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


def is_last(declared: Published, manifest: Manifest) -> bool:
    """Whether the sources have ended with this version, so that no later one can come."""
    return declared.end is not None and date.fromisoformat(manifest.as_of) >= declared.end
