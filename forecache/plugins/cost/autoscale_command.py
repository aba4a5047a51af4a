"""`simulate autoscale`: the replicas of a day of demand, by a policy and by a fixed number."""

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np

from forecache.base.errors import InputError
from forecache.base.plugins import load_hook
from forecache.base.prices import REPLICA, hourly_price
from forecache.base.settings import Settings
from forecache.cli.base import DateParam, command, settings
from forecache.cli.output import show, show_table
from forecache.plugins.cost.autoscalers import FixedReplicas, Hpa, Kpa, RayServe, ScalingPolicy
from forecache.plugins.cost.cost_report import require_picture_name
from forecache.plugins.cost.demand import (
    Demand,
    built_in_demand,
    demand_from_csv,
    demand_from_log,
    measure_service_s,
)
from forecache.plugins.cost.simulate_day import Replica, SimulatedDay, simulate_day

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
@click.option("--date", "day", type=DateParam(), help="Day of NAME's request log; default: its newest whole one.")
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
    "--no-fallbacks", is_flag=True, help="Requests wait instead of falling to a fallback, as with other servers."
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
    deadline_ms: float, slo: float, start_s: float, measure_start: bool, no_fallbacks: bool, policy: str,
    target: float | None, least: int | None, most: int | None, fixed: int | None, plot: Path | None,
) -> None:  # fmt: skip
    """Compare the replicas that a policy starts and stops in a day of demand with a fixed number of them.

    Demand comes from the request log of the real-time model NAME, a file, or a built-in day.
    """
    require_picture_name(plot)
    current = settings()
    demand = _read_demand(current, name, day, file, peak)
    service_s = 1 / capacity if capacity else _service_s(current, name)
    if measure_start:
        start_s += _measure_start_s(current)
    replica = Replica(
        service_s, workers=workers, deadline_s=deadline_ms / 1e3, start_s=start_s, fallbacks=not no_fallbacks,
        gone_s=30 if policy == "ray" else 0,
    )  # fmt: skip
    found = compare_with_fixed(
        demand, replica, _make_policy(policy, workers, target, least, most), slo=slo, fixed=fixed
    )
    if plot is not None:
        plot_comparison(found, plot)
    made = comparison_figures(current, found)
    show(made, lambda: _show(made))


def _read_demand(
    current: Settings, name: str | None, day: date | None, file: Path | None, peak: float | None
) -> Demand:
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


def _service_s(current: Settings, name: str | None) -> float:
    if name is None:
        raise click.UsageError("Give --capacity: the requests/s that a worker answers at most.")
    return measure_service_s(current, name)


def _measure_start_s(current: Settings) -> float:
    """Seconds until a reader of this installation's store is ready."""
    import time

    reader_process = load_hook("new_project", "reader_process")
    started = time.perf_counter()
    with reader_process(current):
        took_s = time.perf_counter() - started
    click.echo(f"A reader of this store was ready after {took_s:.2f} s.", err=True)
    return took_s


def _make_policy(name: str, workers: int, target: float | None, least: int | None, most: int | None) -> ScalingPolicy:
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
    click.echo(f"{policy} {word}. Missed: not answered by the model in time, but by a fallback, or late.")
    if not priced:
        click.echo(made["price_missing"])


_MOST_FIXED = 100_000


@dataclass(frozen=True)
class Comparison:
    """The same day with a fixed number of replicas and with a policy."""

    demand: Demand
    replica: Replica
    slo: float  # share of requests that the model has to answer in time
    fixed: SimulatedDay
    policy: SimulatedDay

    @property
    def saving(self) -> float:
        """Share of the fixed replicas' hours that the policy saves; negative if it takes more."""
        return 1 - self.policy.replica_hours / self.fixed.replica_hours


def compare_with_fixed(
    demand: Demand, replica: Replica, policy: ScalingPolicy, *, slo: float, fixed: int | None = None
) -> Comparison:
    """Simulate a day with a fixed number of replicas and with a policy.

    Args:
        slo: Share of requests that the model has to answer in time.
        fixed: The fixed number; None: the fewest replicas that meet `slo`.
    """
    replicas = fewest_replicas(demand, replica, slo=slo) if fixed is None else fixed
    return Comparison(
        demand,
        replica,
        slo,
        simulate_day(demand, replica, FixedReplicas(replicas)),
        simulate_day(demand, replica, policy),
    )


def fewest_replicas(demand: Demand, replica: Replica, *, slo: float) -> int:
    """The fewest replicas with which the model answers the share `slo` of the day's requests in time."""
    if replica.patience < 0:
        raise InputError(
            f"A request takes {replica.service_s * 1e3:g} ms, its deadline is {replica.deadline_s * 1e3:g} ms.",
            remedy="Give a longer --deadline-ms.",
        )
    low, high = 0, 1
    while simulate_day(demand, replica, FixedReplicas(high)).late_share > 1 - slo:
        low, high = high, high * 2
        if high > _MOST_FIXED:
            raise InputError(
                f"{_MOST_FIXED:,} replicas do not answer {slo:.4%} of the requests in {replica.deadline_s * 1e3:g} ms.",
                remedy="Give a longer --deadline-ms or a smaller --slo.",
            )
    while high - low > 1:
        middle = (low + high) // 2
        if simulate_day(demand, replica, FixedReplicas(middle)).late_share > 1 - slo:
            low = middle
        else:
            high = middle
    return high


def comparison_figures(settings: Settings, found: Comparison) -> dict[str, Any]:
    """JSON-serialisable figures: both outcomes, the saving, and the cost if a replica-hour has a price."""
    price = hourly_price(REPLICA, settings.prices)
    made: dict[str, Any] = {
        "demand": found.demand.source,
        "requests": round(found.demand.requests),
        "peak_requests_per_second": float(found.demand.rates.max()),
        "service_ms": found.replica.service_s * 1e3,
        "start_s": found.replica.start_s,
        "deadline_ms": found.replica.deadline_s * 1e3,
        "slo": found.slo,
        "outcomes": [_day_figures(each, found.slo, price) for each in (found.fixed, found.policy)],
        "saving": found.saving,
    }
    if price is None:
        made["price_missing"] = missing_price_message(REPLICA)
    return made


def missing_price_message(name: str) -> str:
    return f'A {name}-hour has no price: set FORECACHE_PRICES={{"{name}": [on demand, spot]}}.'


def _day_figures(found: SimulatedDay, slo: float, price: tuple[float, float] | None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "policy": found.policy,
        "replica_hours": found.replica_hours,
        "replicas_least": int(found.replicas.min()),
        "replicas_most": int(found.replicas.max()),
        "requests_missed": float(found.late.sum()),
        "share_missed": found.late_share,
        "meets_slo": found.late_share <= 1 - slo,
        "turns": found.num_reversals,
        "longest_answer_s": float(found.worst_s.max()),
    }
    if price is not None:
        made["price_on_demand"], made["price_spot"] = (found.replica_hours * each for each in price)
        made["price_per_million"] = made["price_on_demand"] / max(1.0, found.requests.sum()) * 1e6
    return made


_BINS = 288
_DEMAND, _POLICY, _FIXED, _MISSED = "#4c72b0", "#dd8452", "#8c8c8c", "#c44e52"


def plot_comparison(found: Comparison, file: Path) -> None:
    """Plot requests, replicas, and requests missed by the model; a PNG or SVG, by the ending of the file's name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    demand, replicas, missed = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 2))
    seconds = len(found.demand.rates)
    unit_s, unit = (3600, "hour") if seconds > 3 * 3600 else (60, "minute")
    at = np.arange(seconds) / unit_s
    demand.plot(at, found.demand.rates, color=_DEMAND, linewidth=1)
    demand.set_ylabel("requests/s")
    demand.set_title(found.demand.source, fontsize=10, loc="left")
    for outcome, colour in ((found.fixed, _FIXED), (found.policy, _POLICY)):
        label = f"{outcome.policy}: {outcome.replica_hours:,.1f} replica-hours"
        replicas.plot(at, outcome.replicas, color=colour, linewidth=1.3, label=label)
    replicas.set_ylabel("ready replicas")
    width = max(1, seconds // _BINS)
    whole = seconds // width * width
    for outcome, colour in ((found.fixed, _FIXED), (found.policy, _MISSED)):
        late, requests = (each[:whole].reshape(-1, width).sum(axis=1) for each in (outcome.late, outcome.requests))
        label = f"{outcome.policy}: {outcome.late_share:.3%} of the day"
        share = 100 * late / np.maximum(requests, 1e-9)
        missed.plot(at[:whole:width], share, color=colour, linewidth=1.3, label=label)
    missed.axhline(
        100 * (1 - found.slo), color="black", linestyle=":", linewidth=1, label=f"objective: {1 - found.slo:.2%}"
    )
    missed.set_ylabel("not by the model\nin time [%]")
    missed.set_xlabel(unit)
    missed.set_xlim(0, seconds / unit_s)
    for axes in (demand, replicas, missed):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (replicas, missed):
        axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.1)
    figure.savefig(file, dpi=130)
