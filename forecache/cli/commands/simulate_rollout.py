"""How many requests a rollout takes to find a harm: `simulate rollout`."""

import math

import click

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, show_table, wants_json


@command(
    "rollout",
    examples="forecache simulate rollout --rate 0.05 --harm 0.02 --harm 0.1\n"
    "forecache simulate rollout search --rate 0.3 --requests-per-key 8 --share 0.2\n"
    "forecache simulate rollout --equal 1000",
)
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--rate", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True,
              help="Share of requests with a good outcome.")  # fmt: skip
@click.option(
    "--requests-per-key",
    type=click.FloatRange(min=1),
    default=4.0,
    show_default=True,
    help="Mean number of requests of a key.",
)
@click.option("--alike", type=click.FloatRange(0, 1, max_open=True), default=0.05, show_default=True,
              help="How much requests of a key agree: their intra-class correlation.")  # fmt: skip
@click.option("--harm", "harms", type=click.FloatRange(0, 1, min_open=True, max_open=True), multiple=True,
              default=(0.02, 0.05, 0.1, 0.2, 0.5), show_default=True,
              help="Relative loss of the candidate; may be repeated.")  # fmt: skip
@click.option("--share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.5, show_default=True,
              help="Share of the keys that the candidate answers.")  # fmt: skip
@click.option(
    "--equal",
    "runs",
    type=click.IntRange(min=1),
    help="Roll out so many equal releases instead, and count those that are stopped.",
)
def rollout(
    name: str | None,
    rate: float,
    requests_per_key: float,
    alike: float,
    harms: tuple[float, ...],
    share: float,
    runs: int | None,
) -> None:
    """Show how many requests a rollout needs to find that a candidate's outcomes are worse, to choose its steps.

    With the rollout that NAME declares, or the default one.
    """
    from dataclasses import replace

    from forecache.operations.rollout.simulate import Traffic, equal, table
    from forecache.pipeline import Outcome, Rollout, load_realtime

    declared = load_realtime(settings(), name).rollout if name else None
    declared = declared or Rollout()
    declared = declared if declared.outcome else replace(declared, outcome=Outcome("outcomes", "value"))
    traffic = Traffic(rate, requests_per_key, alike)
    if runs is not None:
        found = equal(traffic, rollout=declared, runs=runs)
        if wants_json():
            print_json({"runs": found.runs, "wrong": found.wrong, "by": dict(found.by)})
        else:
            click.echo(
                f"{found.wrong} of {found.runs:,} equal releases were stopped; {declared.error:g} was asked for."
            )
        return
    rows = table(traffic, sorted(harms), rollout=declared, share=share, runs=100, looks=200)
    if wants_json():
        print_json(rows)
        return
    shown = [
        (f"{row['harm']:.1%}", _requests(row["median"]), _requests(row["in_90_of_100"])) for row in rows
    ]  # fmt: skip
    show_table(
        ("worse by", "found: half of all", "found: 9 of 10"), shown, right=("found: half of all", "found: 9 of 10")
    )
    click.echo("Requests of both arms at this step.")


def _requests(count: float) -> str:
    return f"over {20_000_000:,}" if math.isinf(count) else f"{count:,.0f}"
