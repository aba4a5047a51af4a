"""`forecache challenge` and `forecache shadow`."""

from datetime import date
from typing import TYPE_CHECKING, Any

import click

from forecache.base.errors import NotFoundError
from forecache.cli.base import (
    DateParam,
    command,
    load_trained_model,
    load_trained_pipeline,
    newest_scored,
)
from forecache.cli.orchestrator import show_in_dagster
from forecache.cli.output import print_json, show_stages, show_table, stage_dict, wants_json
from forecache.cli.progress import StageProgress

if TYPE_CHECKING:
    from forecache.declare import Trainable

_PIPELINE = click.argument("pipeline", metavar="PIPELINE")
_NIGHT = click.option("--date", "night", type=DateParam(), help="The as-of date; default: the newest scored one.")


@command(
    "challenge",
    examples="""
    forecache challenge churn 5             # version 5 is scored with the champion from now on
    forecache challenge churn --stop
    """,
)
@_PIPELINE
@click.argument("version", type=int, required=False)
@click.option("--stop", is_flag=True, help="Remove the alias.")
def challenge(pipeline: str, version: int | None, stop: bool) -> None:
    """Give VERSION of PIPELINE's model the alias `challenger`.

    A pipeline that is declared with `shadow=True` scores it in each nightly run, together with the champion,
    into its own table.
    """
    from forecache.plugins.challengers.shadow import dismiss_challenger, name_challenger

    if stop == (version is not None):
        raise click.UsageError("Give a VERSION or --stop.")
    current, declared = load_trained_model(pipeline)
    named = dismiss_challenger(current, declared) if version is None else name_challenger(current, declared, version)
    if named is not None:
        show_in_dagster(current, f"model_{pipeline}", {"challenger": version})
    if wants_json():
        print_json({"pipeline": pipeline, "challenger": None if stop or named is None else named.version})
    elif named is None:
        click.echo(f"{pipeline} has no challenger.")
    elif stop:
        click.echo(f"Model {pipeline} {named.version} is no longer the challenger.")
    else:
        click.echo(f"Model {pipeline} {named.version} is the challenger.{_next_scoring_text(declared)}")


def _next_scoring_text(pipeline: "Trainable") -> str:
    from forecache.declare import Pipeline

    if not isinstance(pipeline, Pipeline):
        return ""
    if pipeline.shadow:
        return " The next run scores it together with the champion."
    return f" `forecache shadow {pipeline.name}` scores it; with `shadow=True` declared every nightly run does."


@command("shadow", examples="forecache shadow churn\nforecache shadow churn --date 1998-06-30 --version 5 --json")
@_PIPELINE
@_NIGHT
@click.option("--version", type=int, help="The version to score; default: the challenger.")
def shadow(pipeline: str, night: date | None, version: int | None) -> None:
    """Score an as-of date of PIPELINE with the challenger, and the champion if necessary, and compare the two.

    The challenger's predictions go to a separate table, which is never published.
    """
    from forecache.models.registry.model_versions import model_version
    from forecache.plugins.challengers.shadow import find_challenger, score_shadow

    current, declared = load_trained_pipeline(pipeline)
    challenger = find_challenger(current, declared) if version is None else model_version(current, declared, version)
    if challenger is None:
        raise NotFoundError(
            f"Pipeline {pipeline!r} has no challenger.",
            remedy=f"Name one with `forecache challenge {pipeline} VERSION`, or give --version.",
        )
    chosen = night or newest_scored(current, declared)
    with StageProgress() as progress:
        result = score_shadow(current, declared, chosen, challenger, progress=progress.update)
    if declared.shadow and not result.skipped:
        model = {"model": result.details["challenger"]}
        show_in_dagster(current, declared.challenger_table, model, result=result, night=chosen)
    if wants_json():
        print_json(stage_dict(result))
        return
    show_stages([result])
    _show_comparison(result.details)


def _show_comparison(details: Any) -> None:
    comparison = details["comparison"]
    rows = [(name.replace("_", " "), value) for name, value in comparison.items() if name != "segment_changes"]
    rows += [(f"rows that change their {name}", count) for name, count in comparison["segment_changes"].items()]
    title = f"{details['challenger']} against {details['champion']}"
    show_table(("", "challenger against champion"), rows, title=title, right=("challenger against champion",))
