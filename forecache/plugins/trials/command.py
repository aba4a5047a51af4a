"""`forecache try`, which runs changed pipelines in a trial, and `forecache trials`, which lists and removes them."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timezone
from typing import Any

import click

from forecache.base.dates import Nights
from forecache.base.errors import SettingsError
from forecache.base.plugins import find_hooks
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.base.steps import only_look
from forecache.cli.base import (
    CONTEXT_SETTINGS,
    DateParam,
    DatesParam,
    DefaultGroup,
    Ranges,
    command,
    resolve_ranges,
    settings,
)
from forecache.cli.commands.models import show_registered
from forecache.cli.output import print_json, show, show_rows, show_stages, show_warnings, size, stage_dict, wants_json
from forecache.cli.progress import StageProgress
from forecache.cli.resolve_names import resolve_nightly_names
from forecache.runs import Job, RunRequest


@command(
    "try",
    examples="""
    forecache try --env staging                        # what the working tree changes, for the newest date of staging
    forecache try churn --env staging --date 1998-06-30
    forecache try churn --env staging --job full --name lower-bound
    forecache get churn 10 --env staging/lower-bound   # any command works in a trial
    """,
)
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@click.option("--date", "night", type=DateParam(), help="The as-of date; default: the newest that the environment has.")
@click.option("--dates", type=DatesParam(), help="As-of dates and ranges, FIRST..LAST, with commas.")
@click.option(
    "--job",
    type=click.Choice(["nightly", "training", "full"]),
    default="nightly",
    show_default=True,
    help="nightly: ingest to publish with the champion; training: ingest to gate; full: both.",
)
@click.option("--name", help="The trial's name; default: the branch of git. A trial of that name is continued.")
@click.option("--fresh", is_flag=True, help="Fork the environment again, as it is now, and forget what was tried.")
def try_pipelines(
    pipelines: tuple[str, ...],
    night: date | None,
    dates: Ranges | None,
    job: Job,
    name: str | None,
    fresh: bool,
) -> None:
    """Run PIPELINEs in a trial: an environment of its own that defers to the one of --env.

    What has equal inputs there is read there, at the version of the fork; only what differs is computed, and nothing
    there is touched. A trial sends no mail or alert and no event, publishes to its own folder alone, moves aliases in
    its own registry, and reads no stream. Without names, all pipelines that the working tree changes.
    """
    from forecache.plugins.trials.run_trial import choose, default_name, group_by_dates, open_trial, run_trial

    base = _base()
    names = resolve_nightly_names(base, pipelines) if pipelines else []
    results: list[StageResult] = []
    with StageProgress() as progress:

        def record_stage(result: StageResult) -> None:
            results.append(result)
            progress.print_stage(result)

        with open_trial(base, name or default_name(), fresh=fresh, progress=progress.update) as run:
            with only_look():
                chosen = choose(run, names, resolve_ranges(night, dates), job)
                _show_plan(run.settings, chosen, job)
            for ranges, pipelines_of in group_by_dates(chosen).items():
                told = ", ".join("..".join(map(str, dict.fromkeys(nights))) for nights in ranges)
                click.echo(f"{', '.join(pipelines_of)} for {told} in the trial {run.settings.env}:", err=True)
            try:
                run_trial(run, chosen, job, progress=progress.update, on_stage=record_stage)
            finally:
                _show_run(run.settings, results)


def _show_plan(trial: Settings, chosen: Mapping[str, Sequence[Nights]], job: Job) -> None:
    """Print what would be computed, if a plug-in plans."""
    requests = [RunRequest([name], nights=nights, job=job) for name, span in chosen.items() for nights in span]
    for show_plan in find_hooks("show_plan") if requests and not wants_json() else ():
        click.echo(f"What is computed; all else is read as {trial.env.partition('/')[0]} has it:")
        show_plan(trial, *requests)


def _show_run(trial: Settings, results: list[StageResult]) -> None:
    computed = [result for result in results if not result.skipped]
    if wants_json():
        told = {"trial": trial.env, "home": trial.home_path, "stages": [stage_dict(result) for result in results]}
        print_json(told)
        return
    if results:
        show_stages(results)
        show_warnings(results)
        show_registered(trial, results)
    environment, _, name = trial.env.partition("/")
    text = f"{len(computed)} of {len(results)} stages were computed in the trial {name!r}, the others were there."
    click.echo(text if results else f"Nothing differs from {environment}.")


def _base() -> Settings:
    """The settings of this invocation, which are those of the environment to defer to, and not of a trial."""
    current = settings()
    if current.base is not None:
        raise SettingsError(
            f"{current.env!r} is a trial, and a trial defers to an environment.",
            remedy=f"Give --env {current.env.partition('/')[0]} and --name {current.home_path.name}.",
        )
    return current


COMMANDS = {
    "list": (f"{__name__}:list_command", "Trials with their age, size and what differs."),
    "remove": (f"{__name__}:remove_command", "Remove a trial and all that was computed in it."),
}


@click.group("trials", cls=DefaultGroup, lazy=COMMANDS, context_settings=CONTEXT_SETTINGS)
def trials() -> None:
    """Trials of the environment of --env: list (the default) and remove."""


@command("list", examples="forecache trials\nforecache trials list --env staging --json")
def list_command() -> None:
    """List the trials of an environment with their age, own size, and the tables and models that differ."""
    from forecache.plugins.trials.trial import changed_tables, list_trials, own_bytes

    base, now = _base(), datetime.now(timezone.utc)
    found: list[dict[str, Any]] = []
    for trial, made in list_trials(base):
        found.append(
            {
                "name": made.name,
                "environment": trial.env,
                "forked_at": made.forked_at,
                "age_h": round((now - made.forked_at).total_seconds() / 3600, 1),
                "own_bytes": own_bytes(trial),
                "changed_tables": changed_tables(trial, made),
                "home": trial.home_path,
            }
        )
    rows = [
        (each["environment"], each["age_h"], size(each["own_bytes"]), ", ".join(each["changed_tables"]))
        for each in found
    ]
    show_rows(found, ("trial", "age (h)", "own size", "tables that differ"), rows, right=("age (h)", "own size"))


@command("remove", examples="forecache trials remove lower-bound --env staging")
@click.argument("name", metavar="TRIAL")
def remove_command(name: str) -> None:
    """Remove a trial. What it has in common with the environment stays there."""
    from forecache.plugins.trials.trial import remove

    base = _base()
    remove(base, name)
    show({"removed": name}, f"Removed the trial {name}.")
