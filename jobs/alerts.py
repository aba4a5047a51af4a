"""Alerts from Dagster's event log, and the sensor that sends them together with those of the lake and the stores.

Open-source Dagster has no alerts. One tick reads all events since the last one, so that a backfill whose 500 runs fail
is one message. `forecache alerts` does the same from the command line, and continues from the sensor's cursors.
"""

import dagster as dg

from forecache.alerts.notify import failures
from forecache.alerts.sinks.chosen import has_sinks
from forecache.settings import Settings
from jobs.event_news import News, event_news
from resources.instance import runner_instance
from resources.settings import SettingsResource

_EVERY_S = 60


def news_of_home(settings: Settings) -> News:
    """Read new alerts from the event log of the installation's Dagster instance; for the command line."""
    with runner_instance(settings) as instance:
        return event_news(settings, instance)


def build_alerts_sensor(settings: Settings) -> dg.SensorDefinition:
    """The alert sensor; it is on by default if a receiver is set."""
    runs = dg.DefaultSensorStatus.RUNNING if has_sinks(settings) else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=_EVERY_S,
        default_status=runs,
        description="Tells of failed checks and runs, stale versions, waiting nights and refusals of the gate, "
        "to where the settings FORECACHE_ALERT_... say.",
    )
    def alerts(context: dg.SensorEvaluationContext, settings: SettingsResource) -> dg.SkipReason:
        from forecache.operations.watch.tell import tell

        current = settings.load()
        if not has_sinks(current):
            return dg.SkipReason("No FORECACHE_ALERT_ setting names a receiver.")
        found = event_news(current, context.instance)
        told, problems = tell(current, found.alerts, found.well, cursors=found.cursors)
        for problem in problems:
            context.log.warning(problem)
        reason = failures(told)
        if reason:
            context.log.warning(reason)
        sent = ", ".join(f"{each.notices} to {each.sink}" for each in told if each.notices)
        return dg.SkipReason(f"Told: {sent or 'nothing new'}.{f' {reason}' if reason else ''}")

    return alerts
