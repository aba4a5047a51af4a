"""Autoscalers on requests in flight: Kubernetes' HorizontalPodAutoscaler, Knative's, and Ray Serve's."""

import math
from collections import deque
from dataclasses import dataclass, field

from forecache.operations.autoscale.policy import Seen


@dataclass(frozen=True)
class Limit:
    """Most pods, or percent, to add or remove within a period (`behavior.scaleUp.policies`)."""

    period_s: int
    percent: float = 0.0
    pods: int = 0

    def up(self, before: int) -> int:
        return before + self.pods if self.pods else math.ceil(before * (1 + self.percent / 100))

    def down(self, before: int) -> int:
        return before - self.pods if self.pods else math.floor(before * (1 - self.percent / 100))


@dataclass(frozen=True)
class Hpa:
    """Kubernetes' HorizontalPodAutoscaler (autoscaling/v2) on requests in flight a pod; defaults as deploy/kubernetes.

    Attributes:
        target: Requests in flight a pod.
        lag_s: Age of the newest figures: half of Prometheus' scrape interval and the adapter's own.
        window_s: The range of `rate(...)` in the adapter's query.
    """

    target: float = 0.6
    least: int = 3
    most: int = 30
    tolerance: float = 0.1
    every_s: int = 15
    lag_s: int = 15
    window_s: int = 60
    up_window_s: int = 0
    down_window_s: int = 300
    up: tuple[Limit, ...] = (Limit(15, percent=100), Limit(15, pods=4))
    down: tuple[Limit, ...] = (Limit(60, percent=10),)
    name: str = "hpa"

    def controller(self) -> "HpaController":
        return HpaController(self)


@dataclass
class HpaController:
    """The algorithm of https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/."""

    policy: Hpa
    _asked: "deque[tuple[int, int]]" = field(default_factory=deque)
    _changes: "deque[tuple[int, int]]" = field(default_factory=deque)

    def wanted(self, seen: Seen) -> int:
        policy, now, current = self.policy, seen.now, seen.wanted
        value = seen.in_flight_by_replica(policy.lag_s, policy.window_s, with_waiting=False)
        asked = min(policy.most, max(policy.least, self._by_ratio(value / policy.target, seen.ready, current)))
        self._asked.append((now, asked))
        longest = max(policy.up_window_s, policy.down_window_s)
        while self._asked[0][0] < now - longest:
            self._asked.popleft()
        lowest = min(each for at, each in self._asked if at >= now - policy.up_window_s)
        highest = max(each for at, each in self._asked if at >= now - policy.down_window_s)
        stable = lowest if current < lowest else highest if current > highest else current
        found = self._limited(stable, current, now)
        if found != current:
            self._changes.append((now, found - current))
        return found

    def _by_ratio(self, ratio: float, ready: int, current: int) -> int:
        """ceil(current * ratio); pods without figures yet count as idle on the way up, as at target on the way down."""
        tolerance, starting = self.policy.tolerance, current - ready
        if abs(ratio - 1) <= tolerance:
            return current
        if starting <= 0:
            return math.ceil(ratio * ready - 1e-9)
        again = (ratio * ready + (0 if ratio > 1 else starting)) / current
        if abs(again - 1) <= tolerance or (again > 1) != (ratio > 1):
            return current
        return math.ceil(again * current - 1e-9)

    def _limited(self, asked: int, current: int, now: int) -> int:
        policy = self.policy
        longest = max(each.period_s for each in (*policy.up, *policy.down))
        while self._changes and self._changes[0][0] <= now - longest:
            self._changes.popleft()
        if asked > current:
            return min(asked, max(each.up(current - self._changed(now, each.period_s, 1)) for each in policy.up))
        if asked < current:
            return max(asked, min(each.down(current - self._changed(now, each.period_s, -1)) for each in policy.down))
        return current

    def _changed(self, now: int, period_s: int, sign: int) -> int:
        return sum(change for at, change in self._changes if at > now - period_s and change * sign > 0)
