"""Running pipelines through the orchestrator: `run`, `train`, `ingest`."""

from datetime import date

import click

from forecache.cli.base import Night, NightRange, command, one_range, settings
from forecache.cli.output import print_json, show_stages, stage_dict, wants_json
from forecache.cli.progress import StageProgress
from forecache.cli.runner import Job, chosen_pipelines, run_job

_NIGHT = click.option("--night", type=Night(), help="The as-of date; default: the newest complete one.")
_NIGHTS = click.option("--nights", type=NightRange(), help="A range of as-of dates, both ends included, in one run.")


def _run(names: tuple[str, ...], nights: tuple[date, date] | None, job: Job) -> None:
    current = settings()
    pipelines = chosen_pipelines(current, names)
    with StageProgress() as progress:
        results = run_job(
            current, pipelines=pipelines, nights=nights, job=job, progress=progress.update, on_stage=progress.done
        )
    if wants_json():
        print_json([stage_dict(result) for result in results])
    else:
        show_stages(results)


@command(
    "run",
    examples="""
    forecache run churn --night 1998-06-30
    forecache run churn spend --nights 1998-06-01..1998-06-30
    forecache run churn --job full          # train first, then score and publish
    """,
)
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@_NIGHT
@_NIGHTS
@click.option(
    "--job",
    type=click.Choice(["nightly", "training", "ingest", "full"]),
    default="nightly",
    show_default=True,
    help="nightly: ingest to publish with the champion; training: ingest to gate; full: both.",
)
def run(pipelines: tuple[str, ...], night: date | None, nights: tuple[date, date] | None, job: Job) -> None:
    """Run PIPELINEs (default: all) for a night or a range of nights.

    What is already current is skipped; a run that was killed continues where it stopped.
    """
    _run(pipelines, one_range(night, nights), job)


@command("train", examples="forecache train churn\nforecache train churn --night 1998-03-31")
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@_NIGHT
def train(pipelines: tuple[str, ...], night: date | None) -> None:
    """Train PIPELINEs (default: all) as of a night, register the models and judge them by the gate."""
    _run(pipelines, one_range(night, None), "training")


@command("ingest", examples="forecache ingest\nforecache ingest churn --nights 1998-06-01..1998-06-30")
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@_NIGHT
@_NIGHTS
def ingest(pipelines: tuple[str, ...], night: date | None, nights: tuple[date, date] | None) -> None:
    """Bring the landing files of PIPELINEs' sources (default: all) into the lake, bad rows into quarantine."""
    _run(pipelines, one_range(night, nights), "ingest")
