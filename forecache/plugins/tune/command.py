"""The hyperparameter search: `tune`."""

from datetime import date

import click

from forecache.cli.base import DateParam, command, load_trained_model
from forecache.cli.output import print_json, show_table, stage_dict, wants_json
from forecache.cli.progress import StageProgress


@command("tune", examples="forecache tune churn\nforecache tune churn --trials 50   # continues after 20")
@click.argument("pipeline", metavar="PIPELINE")
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Finished trials, including earlier ones.",
)
@click.option("--date", "night", type=DateParam(), help="The date shown with the runs; default: today.")
def tune(pipeline: str, trials: int, night: date | None) -> None:
    """Search learning rate, weight decay and batch size on PIPELINE's newest training set.

    It changes nothing, but prints the values to write into the declaration. An interrupted search resumes.
    """
    from forecache.plugins.tune.search import tune as search

    current, declared = load_trained_model(pipeline)
    with StageProgress() as progress:
        result = search(current, declared, night or date.today(), trials=trials, progress=progress.update)
    if wants_json():
        print_json(stage_dict(result))
        return
    details = result.details
    rows = [(name, getattr(declared.training, name), value) for name, value in details["best"].items()]
    rows.append(("validation loss", details["declared_loss"], details["best_loss"]))
    caption = f"{details['trials']} trials, {details['pruned']} ended early, {details['failed']} failed"
    show_table(("", "declared", "best"), rows, right=("declared", "best"), caption=caption)
    written = ", ".join(f"{name}={value!r}" for name, value in details["best"].items())
    click.echo(f"To use these values, declare training=Training(..., {written}).")
