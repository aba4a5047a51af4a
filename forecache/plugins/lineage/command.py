"""`forecache lineage`: OpenLineage events of what stages have recorded."""

from datetime import date, datetime, time, timezone
from typing import TYPE_CHECKING

import click

from forecache.base.errors import NotFoundError, UnavailableError
from forecache.cli.base import DateParam, command, settings
from forecache.cli.orchestrator import has_orchestrator_run, import_orchestrator
from forecache.cli.output import print_json, wants_json

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.plugins.lineage.emit import EmitResult


@command(
    "lineage",
    examples="""
    forecache lineage                        # send what was recorded since the last time
    forecache lineage --since 2026-01-01     # send it again, from a day on
    forecache lineage --run RUN_ID           # of one run of Dagster
    forecache lineage --since today --show   # print the events, one in a line, and send none
    """,
)
@click.option("--since", type=DateParam(), help="Send again what was recorded from this day (UTC) on.")
@click.option("--run", "run_id", help="Send again what one run recorded.")
@click.option("--show", is_flag=True, help="Print the events instead of sending them; with --since or --run.")
def lineage(since: date | None, run_id: str | None, show: bool) -> None:
    """Send OpenLineage events to FORECACHE_OPENLINEAGE_URL and FORECACHE_OPENLINEAGE_FILE.

    Runs send theirs by themselves. Events that are sent again have the same run ids.
    """
    from forecache.plugins.lineage.emit import configured_receivers, emit_again, emit_new, recorded_facts

    current = settings()
    again = since is not None or run_id is not None
    if show and not again:
        raise click.UsageError("--show needs --since or --run.")
    if not show and not configured_receivers(current):
        raise UnavailableError(
            "No receiver of OpenLineage events is set.",
            remedy="Set FORECACHE_OPENLINEAGE_URL or FORECACHE_OPENLINEAGE_FILE.",
        )
    if not again:
        _print_report(emit_new(current, job_names=_job_names(current), patient=True))
        return
    first = datetime.combine(since, time(), timezone.utc) if since else datetime.fromtimestamp(0, timezone.utc)
    facts = recorded_facts(current, since=first, run_id=run_id)
    if run_id is not None and not facts:
        raise NotFoundError(
            f"Nothing is recorded of the run {run_id!r}.", remedy="Give the whole id, as Dagster shows it."
        )
    if show:
        import json

        from forecache.plugins.lineage.events import events_of

        names = _job_names(current)
        for fact in facts:
            for event in events_of(current, fact, job_names=names):
                click.echo(json.dumps(event, ensure_ascii=False, default=str))
        return
    _print_report(emit_again(current, facts, job_names=_job_names(current)))


def _job_names(current: "Settings") -> dict[str, str]:
    """Dagster's job names by run id; empty if it is not installed or never ran here."""
    if not has_orchestrator_run(current):
        return {}
    names: dict[str, str] = import_orchestrator("resources.instance").job_names_by_run(current)
    return names


def _print_report(emitted: "list[EmitResult]") -> None:
    if wants_json():
        print_json(emitted)
    else:
        for each in emitted:
            click.echo(f"{each.receiver}: events of {each.runs} runs of stages")
    problems = " ".join(each.reason for each in emitted if each.reason)
    if problems:
        raise UnavailableError(f"Not all events were taken. {problems}", remedy="The next call goes on.")
