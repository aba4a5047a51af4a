"""Running pipelines through the orchestrator: `run`, `train`, `ingest`, and its UI: `dev`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forecache.base.errors import ForecacheError, NotFoundError, PipelinesFailedError, UnavailableError
from forecache.base.plugins import load_hook
from forecache.base.results import StageResult
from forecache.base.table_names import QUARANTINE
from forecache.cli.base import DateParam, DatesParam, Ranges, command, require_free_port, resolve_ranges, settings
from forecache.cli.orchestrator import Job, import_orchestrator, run_job
from forecache.cli.output import print_json, show_stages, show_warnings, stage_dict, wants_json
from forecache.cli.progress import StageProgress
from forecache.cli.resolve_names import resolve_ingest_names, resolve_nightly_names, resolve_trained_names
from forecache.declare.loading import load_nightly, read_project
from forecache.kit.process.child import run_supervised

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.operations.backfill import DateChoice
    from forecache.runs import RunRequest


_NIGHT = click.option("--date", "night", type=DateParam(), help="The as-of date; default: the newest complete one.")
_DATES = click.option(
    "--dates", type=DatesParam(), help="As-of dates and ranges, FIRST..LAST, with commas; each range is one run."
)


def _run_job(
    names: tuple[str, ...],
    ranges: Ranges | None,
    job: Job,
    *,
    rebuild: bool = False,
    failed: bool = False,
    made_by: str = "",
    max_core_hours: float | None = None,
    dry_run: bool = False,
) -> int:
    from forecache.cli.commands.models import show_registered
    from forecache.operations.backfill import BackfillRun, BudgetSpentError, DateChoice, run_backfill
    from forecache.runs import RunRequest

    current = settings()
    failures: dict[str, BaseException] = {}
    sources: list[str] = []
    if names and job == "ingest":
        pipelines, sources = resolve_ingest_names(current, names)
    elif names:
        pipelines = (resolve_trained_names if job == "training" else resolve_nightly_names)(current, names)
    else:
        project = read_project(current)
        pipelines = list(project.trained_models if job == "training" else project.nightly)
        # A pipeline that cannot be loaded does not run, which must not look like success.
        failures |= project.broken
        if not pipelines and not failures and project.nightly:
            raise NotFoundError(
                f"{current.project} has no pipeline that trains a model.",
                remedy=f"`forecache run` applies or fits {', '.join(project.nightly)} in its nightly run.",
            )
    if failures and not pipelines:
        raise PipelinesFailedError(failures, of=len(failures))
    if not pipelines and not sources:
        raise NotFoundError(
            f"{current.project} declares nothing that could run.",
            remedy=f"Declare a pipeline in {current.project}/pipelines/, or start from one with `forecache init`.",
        )
    chosen = [*pipelines, *sources]
    choice = DateChoice(ranges or (), failed, made_by, max_core_hours is not None)
    if dry_run:
        code = _show_plan(current, RunRequest(pipelines, sources, job=job, rebuild=rebuild), choice)
        if failures:
            raise PipelinesFailedError(failures, of=len(chosen) + len(failures.keys() - {*chosen}))
        return code
    results: list[StageResult] = []
    only: ForecacheError | None = None
    with StageProgress() as progress:

        def record_stage(result: StageResult) -> None:
            results.append(result)
            progress.print_stage(result)

        def run_once(run: BackfillRun | None) -> None:
            run_job(
                current,
                pipelines=list(run.names) if run and job != "ingest" else pipelines,
                sources=sources,
                nights=run.nights if run else None,
                job=job,
                progress=progress.update,
                on_stage=record_stage,
                rebuild=rebuild,
            )

        try:
            declared = [read_project(current).nightly[name] for name in pipelines]
            runs = [] if choice == DateChoice() else choice.list_runs(current, declared)
            if choice == DateChoice():
                run_once(None)
            elif not runs:
                click.echo(f"No as-of date of {', '.join(pipelines)} is chosen.", err=True)
            elif len(runs) == 1 and max_core_hours is None:
                run_once(runs[0])
            else:
                run_backfill(current, runs, run_once, max_core_hours=max_core_hours, progress=progress.update)
        except PipelinesFailedError as error:
            if {*error.failures} <= {*pipelines, *sources}:
                failures |= error.failures
            else:  # by dates of a backfill
                only = error
        except ForecacheError as error:
            only = error
    if wants_json():
        print_json([stage_dict(result) for result in results])
    elif results:
        show_stages(results)
        show_warnings(results)
        _show_quarantined(results)
        show_registered(current, results)
    if job == "ingest" and ranges:
        _show_unread(current, pipelines, sources, ranges)
    if only is not None and (isinstance(only, BudgetSpentError) or not failures):
        raise only
    if only is not None:
        failures[chosen[0]] = only
    if failures:
        raise PipelinesFailedError(failures, of=len(chosen) + len(failures.keys() - {*chosen})) from only
    return 0


def _show_plan(current: "Settings", request: "RunRequest", choice: "DateChoice") -> int:
    """Print the plan of the runs that a request and a choice of dates make; returns the exit code."""
    from forecache.operations.backfill import DateChoice

    show_plan = load_hook("plan", "show_plan")
    if choice == DateChoice():
        return int(show_plan(current, request))
    runs = choice.list_runs(current, [read_project(current).nightly[name] for name in request.pipelines])
    named = [request.pipelines if request.job == "ingest" else run.names for run in runs]
    requests = [replace(request, pipelines=names, nights=run.nights) for names, run in zip(named, runs, strict=True)]
    return int(show_plan(current, *requests))


def _show_unread(current: "Settings", pipelines: Sequence[str], sources: Sequence[str], ranges: Ranges) -> None:
    """Print which landing files of other days wait: ingesting some days does not read them."""
    from forecache.lake.ingest.ingested_files import pending_files

    project = read_project(current)
    of_pipelines = {source.name for name in pipelines for source in load_nightly(current, name).all_sources}
    for name, source in project.landed_sources.items():
        if name not in of_pipelines and name not in sources:
            continue
        others = [file.day for file in pending_files(current, source) if file.day]
        read = {day for day in others if any(first <= day <= last for first, last in ranges)}
        waiting = sorted(day for day in others if source.start <= day and day not in read)
        if waiting:
            files = "1 landing file" if len(waiting) == 1 else f"{len(waiting)} landing files"
            first = f"of {waiting[0]}" if len(waiting) == 1 else f"the first of {waiting[0]}"
            click.echo(f"! Not read yet: {files} of {name}, {first}. `forecache ingest {name}` reads all.", err=True)


def _show_quarantined(results: list[StageResult]) -> None:
    """Print how much of the landing files went to quarantine, and where to read why."""
    for result in results:
        rows, files = result.details.get("quarantined_rows", 0), result.details.get("quarantined_files", {})
        if result.stage == "ingest" and (rows or files):
            example = f", such as {min(files)}: {files[min(files)]}" if files else ""
            click.secho(
                f"! In quarantine: {rows:,} rows and {len(files):,} whole files of {result.subject}{example}. "
                f'`forecache query "select * from {QUARANTINE}{result.subject}"` shows each with its reason.',
                fg="yellow",
                err=True,
            )


@command(
    "run",
    examples="""
    forecache run churn --date 1998-06-30
    forecache run churn spend --dates 1998-06-01,1998-06-10..1998-06-30
    forecache run churn --failed --max-core-hours 2     # the dates that failed a check
    forecache run churn --made-by 91deba14 --rebuild    # those that a version of the code made
    forecache run churn --job full          # train first, then score and publish
    forecache run churn --rebuild           # a file that a feature function reads has changed
    forecache run churn --failed --dry-run  # what that run would do, and what it would take
    """,
)
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@_NIGHT
@_DATES
@click.option("--failed", is_flag=True, help="The dates, of --dates or all, that failed their last check.")
@click.option("--made-by", metavar="CODE_VERSION", default="", help="The dates whose rows this code made.")
@click.option(
    "--max-core-hours",
    type=click.FloatRange(0, min_open=True),
    help="Run date by date, and begin none once so many core-hours are used.",
)
@click.option(
    "--job",
    type=click.Choice(["nightly", "training", "ingest", "full"]),
    default="nightly",
    show_default=True,
    help="nightly: ingest to publish with the champion; training: ingest to gate; full: both.",
)
@click.option("--rebuild", is_flag=True, help="Build, train and score again even if the results are current.")
@click.option("--dry-run", is_flag=True, help="Run nothing: print the plan, with the exit codes of `forecache plan`.")
def run(
    pipelines: tuple[str, ...],
    night: date | None,
    dates: Ranges | None,
    failed: bool,
    made_by: str,
    max_core_hours: float | None,
    job: Job,
    rebuild: bool,
    dry_run: bool,
) -> int:
    """Run PIPELINEs (default: all) for an as-of date, or for several.

    Stages that are current are skipped; a run that was killed continues where it stopped. If one pipeline fails, the
    others continue, and the command fails at the end. Of a real-time model, a run publishes what it looks up and
    releases it; without a champion it trains first.
    """
    if rebuild and job == "ingest":
        raise click.UsageError("Give --rebuild or --job ingest, not both: a landing file is read once.")
    if job in ("training", "ingest") and (failed or made_by or max_core_hours):
        raise click.UsageError(
            f"--failed, --made-by and --max-core-hours choose as-of dates, not those of --job {job}."
        )
    return _run_job(
        pipelines,
        resolve_ranges(night, dates),
        job,
        rebuild=rebuild,
        failed=failed,
        made_by=made_by,
        max_core_hours=max_core_hours,
        dry_run=dry_run,
    )


@command("train", examples="forecache train churn\nforecache train churn --date 1998-03-31")
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@_NIGHT
def train(pipelines: tuple[str, ...], night: date | None) -> None:
    """Train PIPELINEs (default: all) for an as-of date, register the models and have the gate judge them.

    A real-time model is trained on past requests, and released where the gate lets it through.
    """
    _run_job(pipelines, resolve_ranges(night, None), "training")


@command(
    "ingest",
    examples="""
    forecache ingest
    forecache ingest purchases                              # a source
    forecache ingest churn --dates 1998-06-01..1998-06-30  # the sources of a pipeline
    """,
)
@click.argument("names", nargs=-1, metavar="[PIPELINE|SOURCE]...")
@click.option("--date", "night", type=DateParam(), help="A landing day; default: every day on which something waits.")
@click.option("--dates", type=DatesParam(), help="Landing days and ranges, FIRST..LAST, with commas.")
@click.option("--rebuild", is_flag=True, help="Ask databases again for the days of --date or --dates.")
def ingest(names: tuple[str, ...], night: date | None, dates: Ranges | None, rebuild: bool) -> None:
    """Ingest landing files of sources, or of the sources of pipelines (default: all), bad rows into quarantine.

    Sources with a query ask their database first for the days that have no file.
    """
    ranges = resolve_ranges(night, dates)
    if rebuild and ranges is None:
        raise click.UsageError("Give --date or --dates with --rebuild.")
    _run_job(names, ranges, "ingest", rebuild=rebuild)


@command("dev", examples="forecache dev\nforecache dev --port 3001")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port; default: FORECACHE_DAGSTER_PORT.")
@click.pass_context
def dev(context: click.Context, host: str, port: int | None) -> None:
    """Open Dagster's UI: asset graph, runs, checks, schedules, backfills. Ctrl-C or SIGTERM stops all its processes."""
    current = settings()
    port = port or current.dagster_port
    require_free_port(host, port)
    program = Path(sys.executable).with_name("dagster")
    if not program.is_file():
        raise UnavailableError(f"There is no {program}.", remedy="Run `make setup`.")
    instance = import_orchestrator("resources.instance")
    home = instance.ensure_instance(current)
    instance.prepare_tables(home)
    # Dagster would first recommend another command, which this environment does not have.
    quiet = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:Function `dev_command`:FutureWarning"]))
    own = {**current.process_variables(), "DAGSTER_HOME": str(home), "PYTHONWARNINGS": quiet}
    environment = {**os.environ, **own}
    click.echo(f"Dagster's UI is at http://{host}:{port} in some seconds; Ctrl-C stops it.", err=True)
    command_line = [str(program), "dev", "-w", str(home / "workspace.yaml"), "-h", host, "-p", str(port)]
    context.exit(run_supervised(command_line, environment))
