"""Check of `forecache doctor`: the receivers of alerts."""

from forecache.base.settings import Settings
from forecache.cli.checks import Finding
from forecache.plugins.alerts.database import database_file
from forecache.plugins.alerts.outbox import Outbox
from forecache.plugins.alerts.receivers import configured_alert_receivers


def check_alerts(settings: Settings) -> Finding:
    """Check the settings of the receivers of alerts, and find receivers that notices still wait for.

    Raises:
        SettingsError: The settings are wrong.
    """

    sinks = [sink.name for sink in configured_alert_receivers(settings)]
    if not sinks:
        return Finding("alerts", "ok", "no receiver is set")
    if database_file(settings).is_file():
        for sink in sinks:
            waiting = Outbox(settings, sink).read_state()
            if waiting.reason:
                found = f"{waiting.notices} wait for {sink}: {waiting.reason}"
                return Finding("alerts", "warn", found, "Mend that; `forecache alerts --test` tries it.")
    return Finding("alerts", "ok", f"told to {', '.join(sinks)}")
