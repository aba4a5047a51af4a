"""Alerts about a project: one function for each kind of problem, from the state of its tables, stores and logs."""

from collections.abc import Iterator
from datetime import datetime, timezone

from forecache.alerts.alert import Alert
from forecache.lake.sources.state import awaited
from forecache.pipeline.project import Project
from forecache.pipeline.schedules.as_of import due_nights
from forecache.settings import Settings


def waiting_nights(settings: Settings, project: Project) -> Iterator[Alert]:
    """An alert for each as-of date of the latest run by schedule that lacks a source with missing="wait"."""
    for name, declared in project.nightly.items():
        if all(source.missing != "wait" for source in declared.all_sources):
            continue
        started = declared.schedule.latest_run(datetime.now(timezone.utc))
        first, last = due_nights(declared, started)
        for night in declared.schedule.dates(first, last) if last >= declared.start else ():
            late = awaited(settings, declared.all_sources, night)
            if late:
                summary = f"{name} waits: {', '.join(late)} has not delivered {night}."
                details = {"night": str(night), "sources": late}
                yield Alert("night_waiting", name, "warning", summary, details, started, str(night))
