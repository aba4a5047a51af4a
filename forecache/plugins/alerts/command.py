"""`forecache alerts`: finds problems, and notifies the receivers of new ones."""

from datetime import datetime, timezone
from typing import Any

import click

from forecache.base.alert import Alert, Subject
from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.cli.base import Finding, command, settings
from forecache.cli.orchestrator import has_orchestrator_run, import_orchestrator
from forecache.cli.output import print_json, show_table, wants_json
from forecache.plugins.alerts.journal import CursorMove, preview_notices, read_journal, read_noted_alerts
from forecache.plugins.alerts.message import Notice
from forecache.plugins.alerts.notify import NotifyResult, describe_failures, notify
from forecache.plugins.alerts.receivers import configured_alert_receivers


@command(
    "alerts",
    examples="""
    forecache alerts --dry-run     # what would be sent; nothing is sent or noted
    forecache alerts --test        # one alert to each receiver
    */5 * * * * forecache alerts   # in a crontab, where Dagster's sensor does not run
    """,
)
@click.option("--dry-run", is_flag=True, help="Show what would be sent; nothing is sent or noted.")
@click.option("--test", is_flag=True, help="Only send a test alert to each receiver.")
def alerts(dry_run: bool, test: bool) -> None:
    """Look for failed checks and runs, stale versions, waiting as-of dates and refusals of the gate; send what is new.

    The settings FORECACHE_ALERT_... name the receivers. What each was sent is remembered. Exits with 7 where a message
    could not be sent; the next call tries again.
    """
    if dry_run and test:
        raise click.UsageError("Give --dry-run or --test, not both.")
    current = settings()
    sinks = [sink.name for sink in configured_alert_receivers(current)]
    if dry_run:
        _show_dry_run(current, sinks)
        return
    if not sinks:
        raise UnavailableError("No receiver of alerts is set.", remedy="Set FORECACHE_ALERT_WEBHOOK or another.")
    told = _send_test(current) if test else _send_news(current)
    if wants_json():
        print_json({"told": told, "open": read_noted_alerts(current)})
    else:
        _show(current, told)
    reason = describe_failures(told)
    if reason:
        raise UnavailableError(f"Not everything could be sent. {reason}", remedy="The next call tries again.")


def _orchestrator_news(current: Settings) -> tuple[list[Alert], list[Subject], dict[str, CursorMove]]:
    """Alerts from the orchestrator's records since the last call; none if it is not installed or never ran here."""
    if not has_orchestrator_run(current):
        return [], [], {}
    news = import_orchestrator("forecache.plugins.alerts.orchestration").read_installation_events(current)
    return news.alerts, news.well, news.cursors


def _send_news(current: Settings) -> list[NotifyResult]:
    from forecache.plugins.alerts.collect_alerts import collect_and_notify

    found, well, cursors = _orchestrator_news(current)
    told, problems = collect_and_notify(current, found, well, cursors=cursors)
    _warn(problems)
    return told


def _send_test(current: Settings) -> list[NotifyResult]:
    moment = datetime.now(timezone.utc)
    summary = "This is a test. Nothing is wrong."
    return notify(current, [Alert("test", "forecache", "info", summary, {}, moment, moment.isoformat())])


def _show_dry_run(current: Settings, sinks: list[str]) -> None:
    from forecache.plugins.alerts.collect_alerts import collect_alerts_safely

    alerts, well, _ = _orchestrator_news(current)
    found = collect_alerts_safely(current)
    _warn(found.problems)
    news: dict[tuple[str, str, int], Notice] = {}
    for sink in sinks or [""]:
        notices = preview_notices(
            current, [*alerts, *found.alerts], [*well, *found.well], receiver=sink, complete=found.complete
        )
        news |= {(notice.id, notice.state, notice.number): notice for notice in notices}
    if wants_json():
        print_json([{"state": each.state, **vars(each.alert)} for each in news.values()])
        return
    rows = [(each.state, *_cells(each.alert)) for each in news.values()]
    if rows:
        show_table(("", *_COLUMNS), rows, title="Would be sent")
    else:
        click.echo("Nothing new.")
    if not sinks:
        click.echo("No receiver is set: FORECACHE_ALERT_WEBHOOK, _SLACK, _ALERTMANAGER or _EMAIL names one.")


_COLUMNS = ("severity", "kind", "of", "since", "summary")


def _cells(alert: Alert) -> tuple[Any, ...]:
    of = f"{alert.name} {alert.occasion}".strip()
    return alert.severity, alert.kind.replace("_", " "), of, f"{alert.at:%Y-%m-%d %H:%M}", alert.summary


def _show(current: Settings, told: list[NotifyResult]) -> None:
    rows = [_cells(alert) for alert in read_noted_alerts(current)]
    if rows:
        show_table(_COLUMNS, rows, title="Open alerts")
    for each in told:
        if each.sink:
            waiting = f", {each.waiting} wait" if each.waiting else ""
            click.echo(f"{each.sink}: {each.notices} sent{waiting}")


def _warn(problems: tuple[str, ...]) -> None:
    for problem in problems:
        click.echo(f"Warning: {problem}", err=True)


def check_alerts(settings: Settings) -> Finding:
    """Check the settings of the receivers of alerts, and find receivers that notices still wait for."""
    sinks = [sink.name for sink in configured_alert_receivers(settings)]
    if not sinks:
        return Finding("alerts", "ok", "no receiver is set")
    journal = read_journal(settings)
    for sink in sinks:
        outbox = journal.outbox(sink)
        if outbox.reason:
            found = f"{outbox.num_waiting} wait for {sink}: {outbox.reason}"
            return Finding("alerts", "warn", found, "Mend that; `forecache alerts --test` tries it.")
    return Finding("alerts", "ok", f"told to {', '.join(sinks)}")
