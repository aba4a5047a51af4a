"""Comparison of a policy with a fixed number of replicas on the same day: hours, missed requests, cost, and a plot."""

from dataclasses import dataclass
from typing import Any

from forecache.errors import InputError
from forecache.lake.costs import REPLICA, hourly_price
from forecache.operations.autoscale.demand import Demand
from forecache.operations.autoscale.policy import Fixed, Policy
from forecache.operations.autoscale.simulate import Outcome, Replica, simulate
from forecache.settings import Settings

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
    fixed: Outcome
    policy: Outcome

    @property
    def saving(self) -> float:
        """Share of the fixed replicas' hours that the policy saves; negative if it takes more."""
        return 1 - self.policy.replica_hours / self.fixed.replica_hours


def compare(demand: Demand, replica: Replica, policy: Policy, *, slo: float, fixed: int | None = None) -> Comparison:
    """Simulate a day with a fixed number of replicas and with a policy.

    Args:
        slo: Share of requests that the model has to answer in time.
        fixed: The fixed number; None: the fewest replicas that meet `slo`.

    Raises:
        InputError: No number meets it.
    """
    replicas = fewest(demand, replica, slo=slo) if fixed is None else fixed
    return Comparison(
        demand, replica, slo, simulate(demand, replica, Fixed(replicas)), simulate(demand, replica, policy)
    )


def fewest(demand: Demand, replica: Replica, *, slo: float) -> int:
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
    while simulate(demand, replica, Fixed(high)).late_share > 1 - slo:
        low, high = high, high * 2
        if high > _MOST_FIXED:
            raise InputError(
                f"{_MOST_FIXED:,} replicas do not answer {slo:.4%} of the requests in {replica.deadline_s * 1e3:g} ms.",
                remedy="Give a longer --deadline-ms or a smaller --slo.",
            )
    while high - low > 1:
        middle = (low + high) // 2
        if simulate(demand, replica, Fixed(middle)).late_share > 1 - slo:
            low = middle
        else:
            high = middle
    return high


def figures(settings: Settings, found: Comparison) -> dict[str, Any]:
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
        "outcomes": [_outcome(each, found.slo, price) for each in (found.fixed, found.policy)],
        "saving": found.saving,
    }
    if price is None:
        made["price_missing"] = price_missing(REPLICA)
    return made


def price_missing(name: str) -> str:
    return f'A {name}-hour has no price: set FORECACHE_PRICES={{"{name}": [on demand, spot]}}.'


def _outcome(found: Outcome, slo: float, price: tuple[float, float] | None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "policy": found.policy,
        "replica_hours": found.replica_hours,
        "replicas_least": int(found.replicas.min()),
        "replicas_most": int(found.replicas.max()),
        "requests_missed": float(found.late.sum()),
        "share_missed": found.late_share,
        "meets_slo": found.late_share <= 1 - slo,
        "turns": found.changes,
        "longest_answer_s": float(found.worst_s.max()),
    }
    if price is not None:
        made["price_on_demand"], made["price_spot"] = (found.replica_hours * each for each in price)
        made["price_per_million"] = made["price_on_demand"] / max(1.0, found.requests.sum()) * 1e6
    return made
