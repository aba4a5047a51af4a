"""How a new release takes over from the one that answers: in steps, each judged by the requests that it answers."""

from dataclasses import dataclass, field
from typing import Literal

from forecache.pipeline.checks.checking import check_fields, check_least, check_value
from forecache.pipeline.names import check_column


@dataclass(frozen=True)
class Guards:
    """What a release is returned for, each where it is proved to differ by more than this from the current release.

    None: that is not looked at.

    Attributes:
        without_model: Share of requests that the model did not answer.
        late: Share of requests that were answered after their deadline.
        slow: Share of requests that took longer than `slow_ms`.
        slow_ms: None: what 95 of 100 requests were answered within at the A/A step, or a quarter of the deadline where
            that is more.
        score_level: How far the scores of a request lie, on average, from where they did among those of the current
            release, in shares of its scores: 0.5 is from the middle to an end.
        score_spread: The same of how far they lie from the middle.
        order: How far the candidates of a request may lie out of the order of the current release, in the shadow step:
            0 is the same order, 0.5 one by chance, 1 the reverse. 0.45 is a rank correlation of 0.1.
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
    """What requests lead to, as a Delta table says it: whether the item was bought, what it brought.

    Attributes:
        table: The table: a name in the lake, or a URI.
        value: Its column with a number for a request; a request without a row has 0.
        by: Its column with the id of the request.
        horizon_h: Hours after a request within which its row is there; a request counts after them.
        most: Values are from 0 to this; larger ones count as this.
        better: Whether more of it is better, or less.
        tolerated: Relative loss that is accepted; 0: each proved loss returns the release.
        finds: Relative loss for which the test is the quickest.
        margin: Relative loss that the last step has to rule out before the candidate answers all (non-inferiority);
            None: it passes where no loss is proved.
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
    """The steps of a release: A/A, where both arms are answered by the current one; shadow; canary in growing shares.

    An arm is a set of keys, those of `Log.by`, by their hash: a key that has got to the candidate stays with it.

    Attributes:
        shares: Of keys that the candidate answers, one step each, ascending; after the last it answers all.
        aa_share: Of keys that make the second arm of the A/A step.
        shadow_share: Of keys whose requests the candidate scores, too, after they were answered; 0: there is no such
            step.
        requests: That each arm must have had before a step is passed.
        hours: That a step takes at least.
        alert_after_h: A step that is under way for longer is told, once, by an alert: it may wait for ever.
        error: Probability that a release which is like the current one is returned, over all steps and guards.
        guards: What is compared besides `outcome`.
        outcome: What the requests lead to; None where that is not known soon enough.
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
