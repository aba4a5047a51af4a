"""`forecache simulate rollout`: the requests that a rollout needs to find a harm."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import click
import numpy as np
from numpy.random import Generator

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, show, show_table, wants_json
from forecache.declare.realtime.rollout import Outcome, Rollout
from forecache.plugins.rollouts.judge_step import judge_step, next_step
from forecache.plugins.rollouts.simulate_worse import BEGAN, SimulatedTraffic, simulated_state
from forecache.plugins.rollouts.step_counts import GUARD, GUARDS, StepCounts
from forecache.plugins.rollouts.traffic_split import control_share
from forecache.realtime.release.rollout_state import RolloutState, Stage


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
              help="Of each variant before a step is passed, instead of what is declared.")  # fmt: skip
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
        f"Requests of both variants in the canary steps, with known outcomes, until the release was returned; hours at "
        f"{per_hour:,.0f} requests an hour."
    )


def _format_count(count: float) -> str:
    return "" if math.isinf(count) else f"{count:,.0f}"


_RATES: Mapping[str, float] = {
    "without_model": 0.005, "late": 0.01, "slow": 0.05, "score_level": 0.5, "score_spread": 0.5,
}  # fmt: skip
"""Mean by guard. The value of a request is 0 or 1, also for scores, for which this is the largest variance."""
_OF_CONTROL = ("without_model", "late", "slow")
"""Guards that compare a canary with the control alone."""
_DISORDER = 0.25
"""Mean disorder, of a rank correlation of 0.5: a different model that is as good."""
_PATIENCE = 20
"""Multiple of its least duration after which a step that is not passed is given up."""


@dataclass(frozen=True)
class EqualRolloutResult:
    """Results of simulated rollouts."""

    runs: int  # number of rollouts
    returned: int
    paused: int  # for an unsound split or measurement
    held: int  # number that were given up, because a step had too few requests, or a guard stayed undecided
    by: Mapping[str, int] = field(default_factory=dict)  # by step and guard, such as "canary 0.05 late"

    @property
    def num_stopped(self) -> int:
        """Number that were stopped, which is a false alarm if the releases are equal."""
        return self.returned + self.paused


def simulate_equal_release(
    traffic: SimulatedTraffic,
    *,
    rollout: Rollout | None = None,
    runs: int = 1_000,
    keys: int = 5_000,
    looks: int = 4,
    seed: int = 1,
    worse: Mapping[str, float] | None = None,
) -> EqualRolloutResult:
    """Simulate whole rollouts (A/A, shadow, and each share) of a release that is equal to the current one.

    The same keys come back at every look and in every step, with their own rates, so dependence is kept. In the shadow
    step, values of the two releases are otherwise independent. Outcomes are known at once.

    Args:
        keys: Number of keys. With 5,000 and the declared steps, the smallest variant has about 50, which is enough for
            all guards to be judged.
        looks: Number of looks in the least duration of a step. A step goes on until it has its requests.
        worse: By guard, an addition to the candidate's rate, which is then not equal, and should be returned.
    """
    declared = rollout or Rollout(outcome=Outcome("orders", "bought"))
    generator = np.random.default_rng(seed)
    ends = Counter(_simulate_rollout(generator, declared, traffic, keys, looks, worse or {}) for _ in range(runs))
    counts = Counter(dict.fromkeys(("returned", "paused", "waits"), 0))
    for (what, _), count in ends.items():
        counts[what] += count
    by = {where: count for (what, where), count in ends.items() if what != "passed"}
    return EqualRolloutResult(runs, counts["returned"], counts["paused"], counts["waits"], by)


def _simulate_rollout(
    generator: Generator, rollout: Rollout, traffic: SimulatedTraffic, keys: int, looks: int, worse: Mapping[str, float]
) -> tuple[str, str]:
    """Simulate one rollout: ("passed", "returned", "paused" or "waits"; the step and guard that decided)."""
    rates = {**_RATES, "outcome": traffic.rate}
    own = np.full((len(GUARDS), keys), 0.0)  # 0: the current release agrees with its own order
    for name, rate in rates.items():
        own[GUARD[name]] = _rates_of_keys(generator, rate, traffic.alike, keys)
    other = own.copy()
    other[GUARD["order"]] = _rates_of_keys(generator, _DISORDER, traffic.alike, keys)
    for name, more in worse.items():
        other[GUARD[name]] = np.clip(other[GUARD[name]] + more, 0, 1)
    mean = np.full(keys, traffic.requests_per_key)
    mean[0] += traffic.heaviest / (1 - traffic.heaviest) * mean.sum()
    places = generator.random(keys)
    after: tuple[Stage, float] | None = ("aa", rollout.aa_share)
    while after is not None:
        state = simulated_state(rollout, *after)
        of_variants = (own, own if state.stage == "aa" else other)
        verdict, where = _simulate_step(generator, state, places, mean / looks, of_variants, looks)
        if verdict != "passed":
            return verdict, where
        after = next_step(state)
    return "passed", ""


def _simulate_step(
    generator: Generator,
    state: RolloutState,
    places: np.ndarray,
    mean: np.ndarray,
    own: tuple[np.ndarray, np.ndarray],
    looks: int,
) -> tuple[str, str]:
    """Simulate a step: (verdict, the step with the guard that decided)."""
    name = f"{state.stage} {state.share:g}" if state.stage == "canary" else state.stage
    in_share = places < state.share
    variants = [in_share if state.stage == "shadow" else ~in_share, in_share]
    says = np.ones((2, len(mean), len(GUARDS)))
    if state.stage == "canary":
        without_control = places >= control_share(state.share)
        for guard in _OF_CONTROL:
            says[0, without_control, GUARD[guard]] = 0
    seen = StepCounts("", n=np.zeros((2, len(mean), len(GUARDS))), x=np.zeros((2, len(mean), len(GUARDS))))
    for look in range(1, _PATIENCE * looks + 1):
        more = generator.poisson(mean)
        for variant, there in enumerate(variants):
            rows = np.flatnonzero(there & (more > 0))
            seen.n[variant, rows] += more[rows, None] * says[variant, rows]
            seen.x[variant, rows] += generator.binomial(more[rows], own[variant][:, rows]).T * says[variant, rows]
        now = BEGAN + timedelta(hours=look * state.plan["hours"] / looks)
        found = judge_step(state, seen, now=now)
        if found.verdict != "waits":
            guard = next((each.guard for each in found.compared if each.harmful), "split")
            return found.verdict, f"{name} {guard}"
    return "waits", f"{name} waits"


def _rates_of_keys(generator: Generator, rate: float, alike: float, keys: int) -> np.ndarray:
    if not alike:
        return np.full(keys, rate)
    scale = 1 / alike - 1
    return generator.beta(rate * scale, (1 - rate) * scale, keys)
