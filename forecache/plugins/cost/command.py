"""The daily cost of stages, training, storage and replicas: `cost`."""

import os
from collections import defaultdict
from pathlib import Path

import click

from forecache.cli.base import command, settings
from forecache.cli.output import show, show_table
from forecache.plugins.cost.cost_report import CostReport, cost_report, plot_costs, report_to_dict, require_picture_name
from forecache.plugins.cost.stage_costs import PARTS, CostLine

NOT_COUNTED = (
    "Not counted: brokers of Kafka. Tailers are in the price of the readers that they run beside. A pipeline's own "
    "price (--json) is without the views that it shares, its sources and the lake."
)

_LEAST_SHARE = 0.01


@command(
    "cost",
    examples="forecache cost\nforecache cost --days 30 --plot cost.png\nforecache cost --json",
)
@click.option("--days", type=click.IntRange(1, 3660), default=7, show_default=True, help="Last days to look at.")
@click.option("--cores", type=click.IntRange(min=1),
              help="Cores that a stage holds, where its core seconds are not measured; default: all here.")  # fmt: skip
@click.option("--all", "shows_all", is_flag=True, help="Show lines below 1 % of their unit, too.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write a picture: .png or .svg.")
def cost(days: int, cores: int | None, shows_all: bool, plot: Path | None) -> None:
    """Show what stages, trainings, streams, storage and readers take and cost a day, and a million of what they make.

    These are predictions, answers, and events of each stream.

    Prices come from FORECACHE_PRICES. Where one is missing, the amount is shown alone.
    """
    require_picture_name(plot)
    report = cost_report(settings(), days=days, cores=cores or os.cpu_count() or 1)
    if plot is not None:
        plot_costs(report, plot)
    show(report_to_dict(report), lambda: _show(report, shows_all=shows_all))


def _show(report: CostReport, *, shows_all: bool) -> None:
    totals: dict[str, float] = defaultdict(float)
    for line in report.lines:
        totals[line.unit] += line.amount
    known = [line.price for line in report.lines if line.price is not None]
    in_all = ", ".join(f"{amount:,.3g} {unit}" for unit, amount in totals.items())
    partly = "" if len(known) == len(report.lines) else ", as far as prices are known"
    priced = f": {_format_price(sum(known))} on demand{partly}"
    click.echo(f"A day takes {in_all or 'nothing'}{priced if known else ''}.")
    figures = ("a day", "on demand", "spot")
    shown = [line for line in report.lines if shows_all or line.amount >= _LEAST_SHARE * totals[line.unit]]
    show_table(
        ("part", "of", "what", *figures, "share", "basis"),
        [
            (line.part, line.subject or "all", line.what, f"{line.amount:,.3g} {line.unit}", _format_price(line.price),
             _format_price(line.price_spot), _bar(line.amount, totals[line.unit]), _format_basis(line, report.cores))
            for line in shown
        ],
        right=figures,
        caption=f"Means of {report.days:.1f} days. {_hidden(len(report.lines) - len(shown))}{NOT_COUNTED}",
    )  # fmt: skip
    for part in PARTS:
        price = report.price_of(part)
        if price is not None:
            click.echo(f"{part}: {_format_price(price)} a day")
    if report.spot_saving is not None:
        word = "saves" if report.spot_saving >= 0 else "costs"
        click.echo(
            f"Training on spot machines {word} {_format_price(abs(report.spot_saving))} a day, repeated work included."
        )
    predictions = sum(report.predictions.values())
    if report.per_million_predictions is not None:
        click.echo(
            f"A million predictions: {_format_price(report.per_million_predictions)} (of "
            f"{predictions:,.0f} a day; stages, "
            "training and storage; a recommender's prediction is one user's list)."
        )
    if report.per_million_answers is not None:
        click.echo(
            f"A million answers: {_format_price(report.per_million_answers)} (of {report.use.answers:,.0f} a day)."
        )
    for stream in report.streams:
        if (hours := stream.core_hours_per_million) is not None:
            price = report.per_million_events[stream.name]
            costs = "" if price is None else f", {_format_price(price)}"
            since = f"of {stream.events:,} since its process was started"
            click.echo(f"A million events of the stream {stream.name}: {hours:,.3g} core-hours{costs} ({since}).")
    for sentence in missing_figures(report):
        click.echo(sentence)


def missing_figures(report: CostReport) -> list[str]:
    """A sentence for each missing figure, with its remedy."""
    said = [
        f'There is no price for {name!r}: add it to FORECACHE_PRICES, such as {{"{name}": '
        + ("[a GB for a month on disks, in an object store]}." if name == "storage" else "[on demand, spot]}.")
        for name in report.missing_prices
    ]
    said += report.not_known
    if report.use.replicas is None:
        said.append("Replicas are not known: set FORECACHE_READER_REPLICAS, or FORECACHE_PROMETHEUS_URL.")
    elif report.use.answers is None:
        said.append("Answers are not known: set FORECACHE_PROMETHEUS_URL.")
    return said


def _hidden(count: int) -> str:
    return f"{count} lines below {_LEAST_SHARE:.0%} of their unit are left out (--all). " if count else ""


def _bar(amount: float, total: float) -> str:
    """The share of an amount, such as "████ 40%"."""
    share = amount / total if total else 0.0
    return f"{'█' * round(10 * share)} {share:.0%}".strip()


def _format_price(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}" if value >= 10 else f"{value:,.3g}"


def _format_basis(line: CostLine, cores: int) -> str:
    if line.basis == "held":
        return f"its time on {cores} cores"
    return f"{line.basis}, {line.wasted:.3g} wasted by preemption" if line.wasted else line.basis
