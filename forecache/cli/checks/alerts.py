"""Check of the receivers of alerts."""

from forecache.cli.checks.finding import Finding
from forecache.settings import Settings


def check_alerts(settings: Settings) -> Finding:
    """Whether the settings of the receivers fit, and which have not taken what they should.

    Raises:
        SettingsError: They do not fit.
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
