"""Comparison of a policy with a fixed number of replicas on the same day: hours, missed requests, cost, and a plot."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forecache.base.errors import InputError
from forecache.base.prices import REPLICA, hourly_price
from forecache.base.settings import Settings
from forecache.plugins.cost.autoscale.demand import Demand
from forecache.plugins.cost.autoscale.scaling_policy import FixedReplicas, ScalingPolicy
from forecache.plugins.cost.autoscale.simulate_day import Replica, SimulatedDay, simulate_day

_MOST_FIXED = 100_000


@dataclass(frozen=True)
class Comparison:
    """The same day with a fixed number of replicas and with a policy.

    Attributes:
        slo: Share of requests that the model has to answer in time.
    """

    demand: Demand
    replica: Replica
    slo: float
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

    Raises:
        InputError: No number meets it.
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
    """The fewest replicas with which the model answers the share `slo` of the day's requests in time.

    Raises:
        InputError: No number does.
    """
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
