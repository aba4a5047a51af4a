"""Alerts from Dagster's event log, and the sensor that sends them together with those of the lake and the stores.

One tick reads all events since the last one, so that a backfill whose 500 runs fail is one message.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import dagster as dg

from forecache.base.alert import Alert, Severity, Subject
from forecache.base.settings import Settings
from forecache.base.table_names import STREAM
from forecache.declare.project import Project
from forecache.kit.process.wakes import ALERTS
from forecache.plugins.alerts.journal import AlertJournal, CursorMove, home_name, read_journal
from forecache.plugins.alerts.notify import covers_nights
from forecache.plugins.alerts.receivers import has_alert_receivers
from resources.dagster_internals import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    DagsterAssetCheckFailedError,
    DagsterExecutionInterruptedError,
    EventLogEntry,
    SqlEventLogStorage,
)
from resources.instance import runner_instance
from resources.settings_resource import SettingsResource

_FIRST_LOOK_S = 86400.0
_MOST = 5000
"""Most events of a type that are read at once; the next call reads on."""
_EVALUATED, _FAILED, _SUCCEEDED = (
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_SUCCESS,
)
_TOLD_ELSEWHERE = (DagsterAssetCheckFailedError.__name__, DagsterExecutionInterruptedError.__name__)
"""Errors of a step that need no alert of the run: the failed check has its own, and an interruption is intended."""


@dataclass
class EventLogAlerts:
    """New alerts and ended ones, with the cursors to save together with them."""

    alerts: list[Alert] = field(default_factory=list)
    well: list[Subject] = field(default_factory=list)
    # by type of event, the ids of the last that was read before, and that was read now
    cursors: dict[str, CursorMove] = field(default_factory=dict)


def read_event_log_alerts(settings: Settings, instance: dg.DagsterInstance) -> EventLogAlerts:
    """Read which checks failed or pass again, and which runs failed or were made up for by a later run of their dates.

    The first call reads the events of one day.
    """
    news, journal = EventLogAlerts(), read_journal(settings)
    # A database of this machine has events of this machine.
    where = "" if settings.dagster_database else f" of {home_name(settings)}"

    def read(kind: dg.DagsterEventType) -> list[tuple[int, EventLogEntry]]:
        return _read_new_events(journal, instance, kind, f"dagster {kind.value}{where}", news.cursors)

    evaluations = [entry for _, entry in read(_EVALUATED)]
    runs = [*read(_FAILED), *read(_SUCCEEDED)]
    _add_check_alerts(evaluations, news)
    open_ = [alert for alert in journal.open_alerts if alert.kind == "run_failed"]
    for _, entry in sorted(runs, key=lambda each: each[0]):
        has_failed = entry.dagster_event_type == _FAILED
        of_job = [alert for alert in open_ if alert.name == entry.job_name]
        # A run that succeeded is looked up only if its job has an open alert: a backfill has many runs.
        run = instance.get_run_by_id(entry.run_id) if has_failed or of_job else None
        if run is None:
            continue
        if has_failed:
            failed = list(_failed_run_alerts(instance, run, entry))
            news.alerts += failed
            open_ += failed
        else:
            done = [alert for alert in of_job if covers_nights(_nights_of_run(run.tags), alert.details)]
            news.well += [alert.subject for alert in done]
            open_ = [alert for alert in open_ if alert not in done]
    return news


def _read_new_events(
    journal: AlertJournal,
    instance: dg.DagsterInstance,
    kind: dg.DagsterEventType,
    name: str,
    cursors: dict[str, CursorMove],
) -> list[tuple[int, EventLogEntry]]:
    """Events with their ids in the log, ascending; writes the last id to the entry `name` of `cursors`."""
    storage = instance.event_log_storage
    # Dagster's SQLite storage has these types in its database of all runs, too, which only the base class reads.
    newest = SqlEventLogStorage.get_event_records(storage, dg.EventRecordsFilter(kind), limit=1)
    if not newest:
        return []
    recorded = journal.cursor(name)
    before = int(recorded or 0)
    # Another database has other ids: after a replacement the cursor is unknown, and reading starts one day back.
    known = 0 < before <= newest[0].storage_id
    since = dg.EventRecordsFilter(
        kind,
        after_cursor=before if known else None,
        after_timestamp=None if known else time.time() - _FIRST_LOOK_S,
    )
    records = SqlEventLogStorage.get_event_records(storage, since, limit=_MOST, ascending=True)
    cursors[name] = CursorMove(recorded, str(records[-1].storage_id if records else newest[0].storage_id))
    return [(record.storage_id, record.event_log_entry) for record in records]


def _add_check_alerts(entries: Sequence[EventLogEntry], news: EventLogAlerts) -> None:
    """Add alerts of failed checks; the last evaluation of a check and partition decides if its alert has also ended."""
    alerts: dict[Subject, Alert] = {}
    passed: dict[Subject, bool] = {}
    for entry in entries:
        found = entry.get_dagster_event().asset_check_evaluation_data
        if found.asset_key.path[-1].startswith(STREAM):
            continue  # streams have alerts of their own
        name = f"{found.asset_key.to_user_string()}.{found.check_name}"
        subject = Subject("check_failed", name, found.partition or "")
        passed[subject] = found.passed
        if not found.passed:
            blocks = found.blocking and found.severity == dg.AssetCheckSeverity.ERROR
            severity: Severity = "critical" if blocks else "warning"
            if found.severity == dg.AssetCheckSeverity.WARN:
                severity = "info"
            details = {"asset": found.asset_key.to_user_string(), "check": found.check_name, "run_id": entry.run_id}
            said = (found.description or "").strip() or "It failed."
            of_partition = f" for {found.partition}" if found.partition else ""
            summary = f"{name}{of_partition}: {said}"
            alerts[subject] = Alert(
                "check_failed", name, severity, summary, details, _event_time(entry), found.partition or ""
            )
    news.alerts += alerts.values()
    news.well += [subject for subject, is_well in passed.items() if is_well]


def _failed_run_alerts(instance: dg.DagsterInstance, run: dg.DagsterRun, entry: EventLogEntry) -> Iterator[Alert]:
    """An alert of a failed run, unless each failed step has an alert of its own or was interrupted."""
    records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    steps = [record.event_log_entry.get_dagster_event() for record in records]
    errors = [step.step_failure_data for step in steps]
    if errors and all(error.error and error.error.cls_name in _TOLD_ELSEWHERE for error in errors):
        return
    reasons = [
        f"{step.step_key}: {_step_failure_reason(error)}"
        for step, error in zip(steps, errors, strict=True)
        if error.error is None or error.error.cls_name not in _TOLD_ELSEWHERE
    ]
    reason = reasons[0] if reasons else entry.get_dagster_event().message or "without a reason given"
    nights = "..".join(dict.fromkeys(_nights_of_run(run.tags)))
    yield Alert(
        "run_failed",
        run.job_name,
        "critical",
        f"{run.job_name}{f' for {nights}' if nights else ''} failed: {reason}",
        {"run_id": run.run_id, "nights": nights, "failed_steps": len(steps)},
        _event_time(entry),
        f"{nights} run {run.run_id[:8]}".strip(),
    )


def _step_failure_reason(error: Any) -> str:
    if error.user_failure_data and error.user_failure_data.description:
        return str(error.user_failure_data.description)
    return (str(error.error.message).strip().splitlines() or ["?"])[0] if error.error else "?"


def _nights_of_run(tags: Mapping[str, str]) -> list[str]:
    """First and last as-of date of a run; empty for a run without dates."""
    one = tags.get(PARTITION_NAME_TAG)
    ends = [one, one] if one else [tags.get(ASSET_PARTITION_RANGE_START_TAG), tags.get(ASSET_PARTITION_RANGE_END_TAG)]
    return [end for end in ends if end]


def _event_time(entry: EventLogEntry) -> datetime:
    return datetime.fromtimestamp(entry.timestamp, timezone.utc)


def read_installation_events(settings: Settings) -> EventLogAlerts:
    """Read new alerts from the event log of the installation's Dagster instance; for the command line."""
    with runner_instance(settings) as instance:
        return read_event_log_alerts(settings, instance)


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """The alert sensor."""
    return dg.Definitions(sensors=[build_alerts_sensor(settings)])


def build_alerts_sensor(settings: Settings) -> dg.SensorDefinition:
    """The alert sensor; it is on by default if a receiver is set."""
    is_on = has_alert_receivers(settings)

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=int(ALERTS.every_s),
        default_status=dg.DefaultSensorStatus.RUNNING if is_on else dg.DefaultSensorStatus.STOPPED,
        description="Notifies of failed checks and runs, stale versions, late sources and refusals of the gate, to "
        "where the settings FORECACHE_ALERT_... say.",
    )
    def send_alerts(context: dg.SensorEvaluationContext, settings: SettingsResource) -> dg.SkipReason:
        from forecache.plugins.alerts.collect_alerts import collect_and_notify
        from forecache.plugins.alerts.notify import describe_failures

        current = settings.load()
        if not has_alert_receivers(current):
            return dg.SkipReason("No FORECACHE_ALERT_ setting names a receiver.")
        found = read_event_log_alerts(current, context.instance)
        told, problems = collect_and_notify(current, found.alerts, found.well, cursors=found.cursors)
        for problem in problems:
            context.log.warning(problem)
        reason = describe_failures(told)
        if reason:
            context.log.warning(reason)
        sent = ", ".join(f"{each.notices} to {each.sink}" for each in told if each.notices)
        return dg.SkipReason(f"Told: {sent or 'nothing new'}.{f' {reason}' if reason else ''}")

    return send_alerts
