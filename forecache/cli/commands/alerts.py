"""`forecache alerts`: finds problems, and notifies the receivers of new ones."""

from typing import TYPE_CHECKING, Any

import click

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, show_table, wants_json
from forecache.cli.runner import orchestrator, ran_here
from forecache.errors import UnavailableError

if TYPE_CHECKING:
    from forecache.alerts.alert import Alert, Subject
    from forecache.alerts.message import Notice
    from forecache.alerts.notify import Told
    from forecache.settings import Settings


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
    from forecache.alerts.notify import failures
    from forecache.alerts.sinks.chosen import chosen_sinks

    if dry_run and test:
        raise click.UsageError("Give --dry-run or --test, not both.")
    current = settings()
    sinks = [sink.name for sink in chosen_sinks(current)]
    if dry_run:
        _show_dry(current, sinks)
        return
    if not sinks:
        raise UnavailableError("No receiver of alerts is set.", remedy="Set FORECACHE_ALERT_WEBHOOK or another.")
    told = _test(current) if test else _tell(current)
    if wants_json():
        print_json({"told": told, "open": _open(current)})
    else:
        _show(current, told)
    reason = failures(told)
    if reason:
        raise UnavailableError(f"Not everything could be sent. {reason}", remedy="The next call tries again.")


def _recorded(current: "Settings") -> "tuple[list[Alert], list[Subject], dict[str, str]]":
    """Alerts from the orchestrator's records since the last call; none if it is not installed or never ran here."""
    if not ran_here(current):
        return [], [], {}
    news = orchestrator("jobs.alerts").news_of_home(current)
    return news.alerts, news.well, news.cursors


def _tell(current: "Settings") -> "list[Told]":
    from forecache.operations.watch.tell import tell

    found, well, cursors = _recorded(current)
    told, problems = tell(current, found, well, cursors=cursors)
    _warn(problems)
    return told


def _test(current: "Settings") -> "list[Told]":
    from datetime import datetime, timezone

    from forecache.alerts.alert import Alert
    from forecache.alerts.notify import notify

    moment = datetime.now(timezone.utc)
    summary = "This is a test. Nothing is wrong."
    return notify(current, [Alert("test", "forecache", "info", summary, {}, moment, moment.isoformat())])


def _show_dry(current: "Settings", sinks: list[str]) -> None:
    from forecache.alerts.journal import would_tell
    from forecache.operations.watch.tell import look_safely

    alerts, well, _ = _recorded(current)
    found = look_safely(current)
    _warn(found.problems)
    news: dict[tuple[str, str, int], Notice] = {}
    for sink in sinks or [""]:
        notices = would_tell(current, [*alerts, *found.alerts], well, sink=sink, complete=found.complete)
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


def _cells(alert: "Alert") -> tuple[Any, ...]:
    of = f"{alert.name} {alert.occasion}".strip()
    return alert.severity, alert.kind.replace("_", " "), of, f"{alert.at:%Y-%m-%d %H:%M}", alert.summary


def _open(current: "Settings") -> "list[Alert]":
    from forecache.alerts.journal import open_alerts

    return open_alerts(current)


def _show(current: "Settings", told: "list[Told]") -> None:
    rows = [_cells(alert) for alert in _open(current)]
    if rows:
        show_table(_COLUMNS, rows, title="Open alerts")
    for each in told:
        if each.sink:
            waiting = f", {each.waiting} wait" if each.waiting else ""
            click.echo(f"{each.sink}: {each.notices} sent{waiting}")


def _warn(problems: tuple[str, ...]) -> None:
    for problem in problems:
        click.echo(f"Warning: {problem}", err=True)
