"""`forecache drift` and `forecache monitor`: drift, performance, and whether to train again."""

from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import click

from forecache.cli.base import (
    DateParam,
    command,
    load_declared_pipeline,
    load_trained_pipeline,
    newest_scored,
    settings,
)
from forecache.cli.orchestrator import show_in_dagster
from forecache.cli.output import print_json, show_table, wants_json
from forecache.cli.progress import StageProgress

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.declare import Pipeline
    from forecache.plugins.drift.measurements import Measurement
    from forecache.plugins.drift.prediction_drift import DriftReport


@command(
    "monitor",
    examples="""
    forecache monitor churn
    forecache monitor churn --date 1998-06-30 --json
    forecache monitor search --date 2026-11-26
    forecache query "select run_date, name, effect from monitoring where kind = 'performance'"
    """,
)
@click.argument("pipeline", metavar="PIPELINE")
@click.option(
    "--date",
    "night",
    type=DateParam(),
    help="The as-of date to measure; default: the newest that was scored; of a log, yesterday (UTC).",
)
def monitor(pipeline: str, night: date | None) -> None:
    """Measure a scored as-of date of PIPELINE: drift since the champion was trained, expected and realised performance.

    The effect of a feature or an output is its population stability index; of a metric, how much worse it is than on
    the test split. The figures are kept in the table `monitoring`. The verdict says whether they call for training, but
    does not start it. Of a real-time model, a day of its request log is measured.
    """
    from forecache.plugins.drift.measurements import measurements, monitoring_figures
    from forecache.plugins.drift.monitor import monitor as measure
    from forecache.plugins.drift.retraining import retraining_decision

    if _measure_log(pipeline, night):
        return
    current, declared = load_trained_pipeline(pipeline)
    chosen = night or newest_scored(current, declared)
    with StageProgress() as progress:
        result = measure(current, declared, [chosen], progress=progress.update)
    found = measurements(current, declared.name, first=chosen, last=chosen)
    if not result.skipped:
        figures = monitoring_figures(found, chosen)
        show_in_dagster(current, f"monitoring_{pipeline}", figures, result=result, night=chosen)
    decision = retraining_decision(current, declared) if declared.retraining else None
    notes = result.details["notes"][chosen.isoformat()]
    if wants_json():
        print_json(
            {
                "pipeline": declared.name,
                "as_of": chosen,
                "figures": found,
                "notes": notes,
                "retrain": decision.retrain if decision else None,
                "reason": decision.reason if decision else None,
            }
        )
        return
    _show(chosen, found, notes)
    if decision is None:
        click.echo(f"Pipeline {declared.name} declares no `retraining`: these figures start nothing.")
    else:
        click.echo(f"{'Train again' if decision.retrain else 'No training needed'}: {decision.reason}")


def _measure_log(name: str, day: date | None) -> bool:
    """Measure a day of a real-time model's log and show it; returns False if the name is no real-time model's."""
    from forecache.declare.loading import read_project

    current = settings()
    declared = read_project(current).realtime.get(name)
    if declared is None:
        return False
    from forecache.plugins.drift.log_monitoring import monitor_log
    from forecache.plugins.drift.measurements import measurements

    chosen = day or datetime.now(timezone.utc).date() - timedelta(days=1)
    with StageProgress() as progress:
        result = monitor_log(current, declared, chosen, progress=progress.update)
    found, notes = measurements(current, name, first=chosen, last=chosen), result.details["notes"]
    if wants_json():
        print_json({"model": name, "day": chosen, "answers": result.rows, "figures": found, "notes": notes})
        return True
    _show(chosen, found, notes)
    return True


def _show(night: date, found: "list[Measurement]", notes: list[str]) -> None:
    rows: list[tuple[Any, ...]] = [
        (
            row.kind,
            row.name,
            row.reference.replace("nights", "dates"),
            row.effect,
            row.js,
            row.value,
            row.reference_value,
            row.rows,
        )
        for row in sorted(found, key=lambda row: (row.kind, -row.effect))
    ]
    figures = ("effect", "JS distance", "value", "reference", "rows")
    show_table(("kind", "of", "against", *figures), rows, title=f"As-of date {night}", right=figures)
    for note in notes:
        click.echo(f"{note[0].upper()}{note[1:]}.")


@command(
    "drift",
    examples="""
    forecache drift churn
    forecache drift churn --date 1998-06-30 --json
    forecache drift churn --report          # an HTML page on scores and features, too
    """,
)
@click.argument("pipeline", metavar="PIPELINE")
@click.option("--date", "night", type=DateParam(), help="The as-of date; default: the newest scored one.")
@click.option("--report", is_flag=True, help="Write the sampled HTML report.")
def drift(pipeline: str, night: date | None, report: bool) -> None:
    """Show how far PIPELINE's scores have moved from earlier as-of dates and from the model's test split.

    It only reports: a publish is blocked by the drift that the nightly run measured.
    """
    from forecache.plugins.drift.prediction_drift import prediction_drift

    current, declared = load_declared_pipeline(pipeline)
    found = prediction_drift(current, declared, night or newest_scored(current, declared))
    page = _write_sampled_report(current, declared, found.night) if report else None
    if wants_json():
        print_json({**found.metadata(), **({"report": page} if report else {})})
        return
    _show_drift(found)
    if report:
        click.echo(f"The report is {page}." if page else "There is nothing to compare with, and so no report.")


def _write_sampled_report(current: "Settings", pipeline: "Pipeline", night: date) -> str | None:
    from forecache.plugins.drift.sampled_report import write_drift_report

    with StageProgress() as progress:
        result = write_drift_report(current, pipeline, night, progress=progress.update)
    path: str | None = result.details["path"]
    return path


def _show_drift(found: "DriftReport") -> None:
    rows = [
        (name, apart.reference_rows, apart.rows, apart.psi, apart.js, found.effect(name) or "not judged")
        for name, apart in found.distances.items()
    ]
    columns = ("against", "its rows", "rows", "PSI", "Jensen-Shannon", "effect")
    if rows:
        show_table(columns, rows, title=f"{found.output} on {found.night}", right=columns[1:5])
    click.echo(found.sentence)
