"""Simulation of the replicas of a day of demand: `simulate autoscale`."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forecache.base.errors import InputError
from forecache.cli.base import DateParam, command, settings
from forecache.cli.output import show, show_table

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.plugins.cost.autoscale.demand import Demand
    from forecache.plugins.cost.autoscale.scaling_policy import ScalingPolicy

_START_S = 30.0
"""Without a measurement: scheduling and pulling the image take most of it."""


@command(
    "autoscale",
    examples="forecache simulate autoscale search --plot day.png\n"
    "forecache simulate autoscale --peak 20000 --capacity 3000\n"
    "forecache simulate autoscale --file day.csv --capacity 3000 --policy kpa --fixed 12\n"
    "forecache simulate autoscale --peak 20000 --capacity 3000 --measure-start --start-s 15",
)
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--day", type=DateParam(), help="Day of NAME's request log; default: its newest whole one.")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="CSV with seconds and requests_per_second.")  # fmt: skip
@click.option("--peak", type=click.FloatRange(min=0, min_open=True),
              help="A built-in day with two bursts and so many requests/s at its busiest hour.")  # fmt: skip
@click.option("--capacity", type=click.FloatRange(min=0, min_open=True),
              help="Requests/s that a worker answers at most; default: from the times in NAME's log.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Workers of a replica.")
@click.option("--deadline-ms", type=click.FloatRange(min=0, min_open=True), default=50.0, show_default=True,
              help="Time that the model has for an answer.")  # fmt: skip
@click.option("--slo", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.999, show_default=True,
              help="Share of requests that the model has to answer in time.")  # fmt: skip
@click.option("--start-s", type=click.FloatRange(min=0), default=_START_S, show_default=True,
              help="Time until a new replica is ready; with --measure-start, until its reader starts.")  # fmt: skip
@click.option("--measure-start", is_flag=True, help="Start a reader here, and add the time until it is ready.")
@click.option(
    "--no-ladder", is_flag=True, help="Requests wait instead of falling to a lower rung, as with other servers."
)
@click.option("--policy", type=click.Choice(["hpa", "kpa", "ray"]), default="hpa", show_default=True,
              help="Kubernetes, Knative, or Ray Serve as in its issue 63279.")  # fmt: skip
@click.option("--target", type=click.FloatRange(min=0, min_open=True),
              help="Requests in flight of a replica; default: 0.6 a worker, with ray 0.1.")  # fmt: skip
@click.option("--least", type=click.IntRange(min=1), help="Fewest replicas; default: the policy's.")
@click.option("--most", type=click.IntRange(min=1), help="Most replicas; default: the policy's.")
@click.option(
    "--fixed", type=click.IntRange(min=1), help="Fixed replicas to compare with; default: the fewest for --slo."
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write a picture: .png or .svg.")
def autoscale(
    name: str | None, day: date | None, file: Path | None, peak: float | None, capacity: float | None, workers: int,
    deadline_ms: float, slo: float, start_s: float, measure_start: bool, no_ladder: bool, policy: str,
    target: float | None, least: int | None, most: int | None, fixed: int | None, plot: Path | None,
) -> None:  # fmt: skip
    """Compare the replicas that a policy starts and stops in a day of demand with a fixed number of them.

    Demand comes from the request log of the real-time model NAME, a file, or a built-in day.
    """
    from forecache.plugins.cost.autoscale.compare_policies import compare_with_fixed, comparison_figures
    from forecache.plugins.cost.autoscale.simulate_day import Replica

    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise InputError(f"--plot {plot} is no picture that can be written.", remedy="End it in .png or .svg.")
    current = settings()
    demand = _read_demand(current, name, day, file, peak)
    service_s = 1 / capacity if capacity else _service_s(current, name)
    if measure_start:
        start_s += _measure_start_s(current)
    replica = Replica(
        service_s, workers=workers, deadline_s=deadline_ms / 1e3, start_s=start_s, ladder=not no_ladder,
        gone_s=30 if policy == "ray" else 0,
    )  # fmt: skip
    found = compare_with_fixed(
        demand, replica, _make_policy(policy, workers, target, least, most), slo=slo, fixed=fixed
    )
    if plot is not None:
        from forecache.plugins.cost.autoscale.compare_policies import plot_comparison as draw

        draw(found, plot)
    made = comparison_figures(current, found)
    show(made, lambda: _show(made))


def _read_demand(
    current: "Settings", name: str | None, day: date | None, file: Path | None, peak: float | None
) -> "Demand":
    from forecache.plugins.cost.autoscale.demand import built_in_demand, demand_from_csv, demand_from_log

    if sum(each is not None for each in (name, file, peak)) != 1 and not (name and (file or peak)):
        raise click.UsageError("Give NAME, --file or --peak: where the demand comes from.")
    if file is not None and peak is not None:
        raise click.UsageError("Give --file or --peak, not both.")
    if file is not None:
        return demand_from_csv(file)
    if peak is not None:
        return built_in_demand(peak)
    assert name is not None
    from forecache.declare import load_realtime

    log = load_realtime(current, name).log
    return demand_from_log(current, name, day=day, sample=log.sample if log else 1.0)


def _service_s(current: "Settings", name: str | None) -> float:
    if name is None:
        raise click.UsageError("Give --capacity: the requests/s that a worker answers at most.")
    from forecache.plugins.cost.autoscale.demand import measure_service_s

    return measure_service_s(current, name)


def _measure_start_s(current: "Settings") -> float:
    """Seconds until a reader of this installation's store is ready."""
    import time

    from forecache.cli.reader_process import ReaderProcess

    started = time.perf_counter()
    with ReaderProcess(current):
        took_s = time.perf_counter() - started
    click.echo(f"A reader of this store was ready after {took_s:.2f} s.", err=True)
    return took_s


def _make_policy(name: str, workers: int, target: float | None, least: int | None, most: int | None) -> "ScalingPolicy":
    from forecache.plugins.cost.autoscale.autoscalers import Hpa, Kpa, RayServe

    policies: dict[str, Hpa | Kpa | RayServe] = {"hpa": Hpa(), "kpa": Kpa(), "ray": RayServe()}
    made = policies[name]
    chosen = target or (made.target if name == "ray" else made.target * workers)
    least, most = least or made.least, most or made.most
    if least > most:
        raise click.UsageError(f"--least {least} is more than --most {most}.")
    return replace(made, target=chosen, least=least, most=most)


def _show(made: dict[str, Any]) -> None:
    rows = []
    priced = "price_missing" not in made
    for each in made["outcomes"]:
        replicas = f"{each['replicas_least']} to {each['replicas_most']}"
        cost = [f"{each['price_on_demand']:,.2f}", f"{each['price_per_million']:,.4g}"] if priced else []
        missed = f"{each['requests_missed']:,.0f}"
        met = "yes" if each["meets_slo"] else "no"
        rows.append(
            (each["policy"], replicas, f"{each['replica_hours']:,.1f}", missed, f"{each['share_missed']:.4%}", met,
             str(each["turns"]), f"{each['longest_answer_s']:,.2f}", *cost)
        )  # fmt: skip
    costs = ("price of the day", "a million") if priced else ()
    heads = ("policy", "replicas", "replica-hours", "missed", "share", f"{made['slo']:.2%} met", "swings", "longest, s")
    click.echo(
        f"{made['demand']}: {made['requests']:,} requests, up to {made['peak_requests_per_second']:,.0f}/s; "
        f"{made['service_ms']:.3g} ms each, {made['deadline_ms']:g} ms until the deadline, "
        f"{made['start_s']:.1f} s until a replica is ready"
    )
    show_table((*heads, *costs), rows, right=(*heads[2:], *costs))
    hours = made["outcomes"][0]["replica_hours"] - made["outcomes"][1]["replica_hours"]
    policy, share = made["outcomes"][1]["policy"], made["saving"]
    word = f"saves {hours:,.1f} replica-hours ({share:.1%})" if hours > 0 else f"takes {-hours:,.1f} replica-hours more"
    click.echo(
        f"{policy} {word}. Missed: not answered by the model in time, but by a lower rung of the ladder, or late."
    )
    if not priced:
        click.echo(made["price_missing"])
