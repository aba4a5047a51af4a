"""Checks of services: receivers of alerts, the SMTP server, existing tables, databases, and registered models."""

from forecache.cli.checks.finding import Finding
from forecache.settings import Settings


def check_alerts(settings: Settings) -> Finding:
    """Check the settings of the receivers of alerts, and find receivers that notices still wait for.

    Raises:
        SettingsError: The settings are wrong.
    """
    from forecache.alerts.database import database_file
    from forecache.alerts.outbox import Outbox
    from forecache.alerts.sinks.chosen import chosen_sinks

    sinks = [sink.name for sink in chosen_sinks(settings)]
    if not sinks:
        return Finding("alerts", "ok", "no receiver is set")
    if database_file(settings).is_file():
        for sink in sinks:
            waiting = Outbox(settings, sink).waiting()
            if waiting.reason:
                found = f"{waiting.notices} wait for {sink}: {waiting.reason}"
                return Finding("alerts", "warn", found, "Mend that; `forecache alerts --test` tries it.")
    return Finding("alerts", "ok", f"told to {', '.join(sinks)}")
