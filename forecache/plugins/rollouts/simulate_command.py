"""`forecache simulate rollout`: the requests that a rollout needs to find a harm."""

import math

import click

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, show, show_table, wants_json


@command(
    "rollout",
    examples="forecache simulate rollout --rate 0.05 --harm 0.02 --harm 0.1\n"
    "forecache simulate rollout search --rate 0.3 --requests-per-key 8 --per-hour 20000\n"
    "forecache simulate rollout --harm 0.02 --margin 0.02\n"
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
@click.option("--per-hour", type=click.FloatRange(0, min_open=True), default=100_000.0, show_default=True,
              help="Requests an hour.")  # fmt: skip
@click.option("--requests", type=click.IntRange(min=1),
              help="Of each arm before a step is passed, instead of what is declared.")  # fmt: skip
@click.option("--margin", type=click.FloatRange(0, 1, min_open=True),
              help="Relative loss that the last step has to rule out, instead of what is declared.")  # fmt: skip
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
    per_hour: float,
    requests: int | None,
    margin: float | None,
    runs: int | None,
) -> None:
    """Show whether a rollout returns a candidate whose outcomes are worse, and after how many requests.

    With the rollout that NAME declares, or the default one, and its outcomes as shares.
    """
    from dataclasses import replace

    from forecache.declare import Outcome, Rollout, load_realtime
    from forecache.plugins.rollouts.simulate_equal import simulate_equal_release
    from forecache.plugins.rollouts.simulate_worse import SimulatedTraffic, harm_table

    declared = load_realtime(settings(), name).rollout if name else None
    declared = declared or Rollout()
    outcome = replace(declared.outcome or Outcome("outcomes", "value"), better="more")
    outcome = outcome if margin is None else replace(outcome, margin=margin)
    declared = replace(declared, outcome=outcome, requests=requests or declared.requests)
    traffic = SimulatedTraffic(rate, requests_per_key, alike, per_hour)
    if runs is not None:
        found = simulate_equal_release(traffic, rollout=declared, runs=runs)
        show(
            {"runs": found.runs, "wrong": found.num_stopped, "held": found.held, "by": dict(found.by)},
            f"{found.num_stopped} of {found.runs:,} equal releases were stopped; {declared.error:g} was asked for. "
            f"{found.held} waited at a step for long.",
        )
        return
    rows = harm_table(traffic, sorted(harms), rollout=declared, runs=100)
    if wants_json():
        print_json(rows)
        return
    shown = [
        (
            f"{row['harm']:.1%}",
            f"{row['returned']:.0%}",
            f"{row['passed']:.0%}",
            _format_count(row["median"]),
            _format_count(row["in_90_of_100"]),
            _format_count(row["median_hours"]),
        )
        for row in rows
    ]
    heads = ("worse by", "returned", "answers all", "requests: half", "requests: 9 of 10", "hours: half")
    show_table(heads, shown, right=heads)
    click.echo(
        f"Requests of both arms in the canary steps, with known outcomes, until the release was returned; hours at "
        f"{per_hour:,.0f} requests an hour."
    )


def _format_count(count: float) -> str:
    return "" if math.isinf(count) else f"{count:,.0f}"
