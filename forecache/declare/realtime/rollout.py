"""The rollout of a new release: it takes over in steps, each judged by logged requests."""

from dataclasses import dataclass, field
from typing import Literal

from forecache.base.table_names import check_column
from forecache.declare.checks import check_fields, check_least, check_value


@dataclass(frozen=True)
class Guards:
    """Limits of a rollout: a release is returned if it is proved to exceed the current one by more than a limit.

    A limit of None is not checked.

    Attributes:
        without_model: Share of requests that the model did not answer.
        late: Share of requests that were answered after their deadline.
        slow: Share of requests that took longer than `slow_ms`.
        slow_ms: Milliseconds; None: the 95th percentile of the answer times in the A/A step, or a quarter of the
            deadline, if that is more.
        score_level: Mean position of the scores in the distribution of the current release's scores, as a share: 0.5 is
            the distance from the middle to an end.
        score_spread: Mean distance of the scores from the middle of that distribution, likewise.
        order: Distance of the candidates' order from that of the current release, in the shadow step: 0 is the same
            order, 0.5 one by chance, 1 the reverse. 0.45 is a rank correlation of 0.1.
    """

    without_model: float | None = 0.01
    late: float | None = 0.01
    slow: float | None = 0.05
    slow_ms: float | None = None
    score_level: float | None = 0.1
    score_spread: float | None = 0.1
    order: float | None = 0.45

    def __post_init__(self) -> None:
        check_fields("`Guards`", self)
        for name in ("without_model", "late", "slow", "score_level", "score_spread", "order"):
            value = getattr(self, name)
            check_value("`Guards`", name, value, value is None or 0 <= value < 1, "A share from 0 to below 1.")
        if self.slow_ms is not None:
            check_least("`Guards`", self, 0, "slow_ms", above=True)


@dataclass(frozen=True)
class Outcome:
    """The outcome of requests, in a Delta table: whether the item was bought, or its revenue.

    Attributes:
        table: Name of the table in the lake, or its URI.
        value: Column with the number of a request; a request without a row has 0.
        by: Column with the id of the request.
        horizon_h: Hours after a request until its row is there; a request is counted after them.
        most: Largest value; values are from 0 to this, and larger ones count as this.
        better: Whether more is better, or less.
        tolerated: Relative loss that is accepted; 0: each proved loss returns the release.
        finds: Relative loss that the test is tuned to find soonest.
        margin: Relative loss that the last step has to rule out before the candidate answers all (non-inferiority);
            None: it passes if no loss is proved.
    """

    table: str
    value: str
    by: str = "request_id"
    horizon_h: float = 24.0
    most: float = 1.0
    better: Literal["more", "less"] = "more"
    tolerated: float = 0.0
    finds: float = 0.02
    margin: float | None = None

    def __post_init__(self) -> None:
        check_fields("`Outcome`", self)
        for name in ("value", "by"):
            check_column("`Outcome`", getattr(self, name))
        check_least("`Outcome`", self, 0, "horizon_h", "tolerated")
        check_least("`Outcome`", self, 0, "most", "finds", above=True)
        ok = self.margin is None or self.margin > self.tolerated
        check_value("`Outcome`", "margin", self.margin, ok, "More than `tolerated`, such as 0.02; None: no margin.")


@dataclass(frozen=True)
class Rollout:
    """The steps of a rollout: A/A (the current release answers both variants), shadow, canary in growing shares.

    A variant is a set of keys (`Log.by`), chosen by their hash: a key that the candidate answers stays with it.

    Attributes:
        shares: Shares of the keys that the candidate answers, one step each, ascending; after the last it answers all.
        aa_share: Share of the keys in the second variant of the A/A step.
        shadow_share: Share of the keys whose requests the candidate also scores, after they were answered; 0: no shadow
            step.
        requests: Requests that each variant needs before a step is passed.
        hours: Least hours of a step.
        alert_after_h: If a step takes longer, one alert is sent, since it may wait for ever.
        error: Probability that a release which is like the current one is returned, over all steps and guards.
        guards: Limits that are checked besides `outcome`.
        outcome: The outcome of requests; None if it is not known soon enough.
    """

    shares: tuple[float, ...] = (0.01, 0.05, 0.2, 0.5)
    aa_share: float = 0.5
    shadow_share: float = 0.1
    requests: int = 1_000
    hours: float = 1.0
    alert_after_h: float = 168.0
    error: float = 0.005
    guards: Guards = field(default_factory=Guards)
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        check_fields("`Rollout`", self)
        ascending = list(self.shares) == sorted(set(self.shares))
        rule = "One or several shares, ascending, each above 0 and below 1."
        ok = bool(self.shares) and ascending and all(0 < share < 1 for share in self.shares)
        check_value("`Rollout`", "shares", self.shares, ok, rule)
        check_value("`Rollout`", "aa_share", self.aa_share, 0 < self.aa_share < 1, "A share between 0 and 1.")
        check_value("`Rollout`", "shadow_share", self.shadow_share, 0 <= self.shadow_share <= 1, "A share, or 0.")
        check_least("`Rollout`", self, 1, "requests")
        check_least("`Rollout`", self, 0, "hours")
        check_least("`Rollout`", self, 0, "alert_after_h", above=True)
        check_value("`Rollout`", "error", self.error, 0 < self.error <= 0.1, "A probability up to 0.1, such as 0.005.")
