"""`forecache diff`: compare two environments, or two dates or versions of one."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forecache.base.environments import LOCAL, list_environments
from forecache.base.errors import CheckError
from forecache.base.settings import load_settings
from forecache.cli.base import FLAGS, DateParam, command, settings, show_environment
from forecache.cli.output import print_json
from forecache.cli.progress import StageProgress
from forecache.cli.resolve_names import resolve_nightly_names

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.plugins.diff.environment_diff import EnvironmentDiff


def _two(context: click.Context, parameter: click.Parameter, values: tuple[object, ...]) -> tuple[object, ...]:
    if len(values) > 2:
        raise click.UsageError(f"Give {parameter.opts[0]} at most twice: before and after.", context)
    return values


@command(
    "diff",
    examples="""
    forecache diff --env staging --env staging/lower-bound          # all that a trial changes
    forecache diff churn --env staging --env prod --date 1998-06-30 --html diff.html
    forecache diff churn --env staging --date 1998-06-29 --date 1998-06-30
    forecache diff --env staging --env staging/pull-7 --markdown --max-changed 0.05
    """,
)
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@click.option(
    "--env", "environments", multiple=True, metavar="NAME", callback=_two, is_eager=True,
    help="Twice: the environment before and after, or ENVIRONMENT/TRIAL. Once: that of two dates or versions.",
)  # fmt: skip
@click.option(
    "--date", "nights", multiple=True, type=DateParam(), callback=_two,
    help="The as-of date, or twice: before and after. Default: the newest that both have.",
)  # fmt: skip
@click.option(
    "--version", "versions", multiple=True, type=click.IntRange(min=0), callback=_two,
    help="Twice: the Delta versions of the prediction tables before and after.",
)  # fmt: skip
@click.option("--top", type=click.IntRange(min=0), default=5, show_default=True, help="Keys that moved most to show.")
@click.option("--markdown", is_flag=True, help="Answer in Markdown, for a pull request.")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots, too.")
@click.option(
    "--max-changed", type=click.FloatRange(0, 1), metavar="SHARE",
    help="Exit with 6 if a larger share of the answers of a pipeline changes, or if a gate fails after.",
)  # fmt: skip
def diff(
    pipelines: tuple[str, ...],
    environments: tuple[str, ...],
    nights: tuple[date, ...],
    versions: tuple[int, ...],
    top: int,
    markdown: bool,
    page: Path | None,
    max_changed: float | None,
) -> None:
    """Show what differs of PIPELINEs between two environments: rows, distributions, ranks, metrics, answers.

    Without names, all that has a nightly run. Tables of the same files on both sides are equal and not read, as those
    that a trial has from its environment. Nothing is written but the page of --html.
    """
    from forecache.plugins.diff.environment_diff import diff_environments, require_names
    from forecache.plugins.diff.texts import render_markdown, show_text

    before, after = _sides(environments, has_two=len(nights) == 2 or len(versions) == 2)
    names = resolve_nightly_names(after, pipelines) if pipelines else []
    of_sides = (nights[0], nights[-1]) if nights else None
    with StageProgress() as progress:
        found = diff_environments(
            before, after, names, nights=of_sides, versions=(versions[0], versions[1]) if versions else None, top=top,
            progress=progress.update,
        )  # fmt: skip
    require_names(found)
    if page is not None:
        from forecache.plugins.diff.page import write_page

        write_page(page, found)
    if FLAGS.json:
        print_json(found.as_dict())
    elif markdown:
        click.echo(render_markdown(found, most=max_changed))
    else:
        show_text(found)
        if page is not None:
            click.echo(f"The page is {page}.")
    if max_changed is not None:
        _require_limits(found, max_changed)


def _sides(environments: tuple[str, ...], *, has_two: bool) -> "tuple[Settings, Settings]":
    """The settings of both sides; a protected environment may be chosen, as it is named here."""
    if len(environments) < 2 and not has_two:
        raise click.UsageError("Give --env twice: the environment before and after. Or give --date or --version twice.")
    found = [_load(name) for name in environments] or [settings()]
    return found[0], found[-1]


def _load(name: str) -> "Settings":
    """The settings of an environment that this command line names; "local" is what the variables alone say."""
    is_none = name == LOCAL and LOCAL not in list_environments(load_settings("").environments)
    chosen = load_settings("" if is_none else name)
    show_environment(chosen)
    return chosen


def _require_limits(found: "EnvironmentDiff", most: float) -> None:
    """CheckError in one sentence if a limit is passed."""
    over = [each for each in found.names if each.changed_share > most]
    problems = [
        f"{each.changed_share:.2%} of the answers of {each.name} change, and at most {most:.2%} may" for each in over
    ]
    problems += found.failed_gates
    if problems:
        raise CheckError(
            f"{'; '.join(problems)}.", remedy="Look at what changes, and raise --max-changed if it is meant."
        )
