"""`forecache plan`: what a run would do, why, and what it would take."""

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

import click

from forecache.base.dates import format_ranges
from forecache.cli.base import DateParam, DatesParam, Ranges, command, resolve_ranges, settings
from forecache.cli.output import print_json, show_table, wants_json
from forecache.cli.output import size as format_size
from forecache.cli.resolve_names import resolve_nightly_names, resolve_trained_names
from forecache.declare.loading import read_project

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.plugins.plan.plan import Plan, PlannedStage
    from forecache.runs import RunRequest

HAS_WORK = 10
"""Exit code of a plan that has something to do."""


@command(
    "plan",
    examples="""
    forecache plan
    forecache plan churn --dates 1998-06-01..1998-06-30
    forecache plan --job full --markdown > plan.md
    forecache plan --json | jq .total.core_s
    """,
)
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@click.option("--date", "night", type=DateParam(), help="The as-of date; default: the newest complete one.")
@click.option("--dates", type=DatesParam(), help="As-of dates and ranges, FIRST..LAST, with commas.")
@click.option(
    "--job",
    type=click.Choice(["nightly", "training", "ingest", "full"]),
    default="nightly",
    show_default=True,
    help="The job of `forecache run` that is planned.",
)
@click.option("--rebuild", is_flag=True, help="Plan a run with --rebuild.")
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
def plan(
    pipelines: tuple[str, ...],
    night: date | None,
    dates: Ranges | None,
    job: Any,
    rebuild: bool,
    markdown: bool,
) -> int:
    """Show which stages `forecache run` would run for PIPELINEs (default: all), why, and what they would take.

    Nothing is written. The declarations are those of the working tree. Exit code 0: nothing to do; 10: something would
    run, or a run would stop with an error.
    """
    from forecache.base.errors import PipelinesFailedError
    from forecache.runs import RunRequest

    current = settings()
    project = read_project(current)
    if pipelines:
        names = (resolve_trained_names if job == "training" else resolve_nightly_names)(current, pipelines)
    else:
        names = list(project.trained_models if job == "training" else project.nightly)
        if project.broken:
            raise PipelinesFailedError({**project.broken}, of=len(names) + len(project.broken))
    spans = resolve_ranges(night, dates) or [None]
    requests = [RunRequest(names, nights=span, job=job, rebuild=rebuild) for span in spans]
    return show_plan(current, *requests, as_markdown=markdown)


def show_plan(settings: "Settings", *requests: "RunRequest", as_markdown: bool = False) -> int:
    """Print the plan of runs one after the other, which differ in their declarations and dates only; returns the exit
    code.
    """
    from forecache.plugins.plan.make_plan import plan_run

    found = plan_run(settings, *requests)
    if wants_json():
        print_json(found.as_dict())
    elif as_markdown:
        click.echo(to_markdown(found))
    else:
        _show(found)
    return HAS_WORK if found.has_work else 0


def _show(plan: "Plan") -> None:
    if plan.stages:
        right = ("rows", "core-s", "wall s", "memory")
        show_table(("stage", "of", "dates", *right, "because"), map(_cells, plan.stages), right=right)
    for line in _closing_lines(plan):
        click.echo(line)


def _cells(each: "PlannedStage") -> tuple[str, ...]:
    made, sign = each.estimate, "~" if each.estimate.is_guess else ""
    why = "; ".join([*([each.condition] if each.condition else []), *each.causes])
    memory = format_size(made.peak_bytes) if made.peak_bytes else "-"
    figures = (f"{made.rows:,}", f"{sign}{made.core_s:.2f}", f"{sign}{made.seconds:.1f}", memory)
    return (each.stage, each.subject, format_ranges(each.dates) or "-", *figures, why)


def _closing_lines(plan: "Plan") -> Iterator[str]:
    """Sentences after the table: the sum, how sure it is, what would stop, and what else has changed."""
    if not plan.stages and not plan.blocked:
        yield "Nothing to do: everything is current."
    if plan.stages:
        price = "".join(
            f", {plan.prices[name]:.4g} {text}"
            for name, text in (("price_on_demand", "on demand"), ("price_spot", "spot"))
            if name in plan.prices
        )
        count = f"{len(plan.stages)} {'stage' if len(plan.stages) == 1 else 'stages'}"
        yield (
            f"{count}: {plan.core_s:,.1f} core-seconds{price}. Begun now, it ends, and all is served, about "
            f"{plan.ends_at:%Y-%m-%d %H:%M:%S} UTC (in {plan.seconds:,.0f} s)."
        )
        guessed = [each for each in plan.stages if each.estimate.is_guess]
        if guessed:
            names = ", ".join(dict.fromkeys(f"{each.stage} of {each.subject}" for each in guessed))
            yield f"Guessed from rows (~), as it has never run: {names}."
        low, high = (sum(getattr(each.estimate, name) for each in plan.stages) for name in ("low_s", "high_s"))
        yield f"By the least and the most that earlier runs took: {low:,.1f} to {high:,.1f} core-seconds."
    for name, reason in plan.blocked.items():
        yield f"{name} would stop: {reason}"
    yield from plan.notes


def to_markdown(plan: "Plan") -> str:
    """The plan for a pull request."""
    lines = ["### What a run would do", ""]
    if plan.stages:
        heads = ("stage", "of", "dates", "rows", "core-s", "wall s", "memory", "because")
        lines += [f"| {' | '.join(heads)} |", "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |"]
        for each in plan.stages:
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in _cells(each))} |")
        lines.append("")
    for line in _closing_lines(plan):
        lines += [line, ""]
    return "\n".join(lines).rstrip()
