"""Scaling policies: a fixed number of replicas, and the autoscalers of Kubernetes, Knative and Ray Serve."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class FleetSnapshot:
    """The figures that a controller decides by."""

    now: int  # second of the day
    ready: int  # replicas that take requests
    wanted: int  # replicas that were requested; those that are not ready are starting
    busy: Sequence[float]  # by second up to now, requests that workers were answering, over all replicas
    waiting: Sequence[float]  # by second up to now, requests that waited for a worker or for a ready replica
    replicas: Sequence[int]  # by second up to now, ready replicas

    def mean_in_flight(self, lag_s: int, window_s: int, *, with_waiting: bool) -> float:
        """Mean number of requests in flight over a window that ended `lag_s` ago."""
        end = max(1, self.now - lag_s)
        first = max(0, end - window_s)
        total = sum(self.busy[first:end]) + (sum(self.waiting[first:end]) if with_waiting else 0.0)
        return total / (end - first)

    def mean_in_flight_per_replica(self, lag_s: int, window_s: int, *, with_waiting: bool) -> float:
        """Mean number of requests in flight for each ready replica, over a window that ended `lag_s` ago."""
        end = max(1, self.now - lag_s)
        first = max(0, end - window_s)
        seconds = range(first, end)
        values = (self.busy[each] + with_waiting * self.waiting[each] for each in seconds)
        return sum(value / max(1, self.replicas[each]) for value, each in zip(values, seconds, strict=True)) / (
            end - first
        )


class ScalingController(Protocol):
    """Chooses the number of replicas."""

    def choose_replicas(self, seen: FleetSnapshot) -> int: ...


class ScalingPolicy(Protocol):
    """The declaration of a controller, which decides every `every_s` seconds."""

    @property
    def name(self) -> str: ...
    @property
    def every_s(self) -> int: ...
    @property
    def least(self) -> int: ...
    def controller(self) -> ScalingController: ...


@dataclass(frozen=True)
class FixedReplicas:
    """A fixed number of replicas all day."""

    replicas: int
    name: str = "fixed"
    every_s: int = 3600

    @property
    def least(self) -> int:
        return self.replicas

    def controller(self) -> "FixedReplicas":
        return self

    def choose_replicas(self, seen: FleetSnapshot) -> int:
        return self.replicas


@dataclass(frozen=True)
class ScalingLimit:
    """Most pods, or percent, to add or remove within a period (`behavior.scaleUp.policies`)."""

    period_s: int
    percent: float = 0.0
    pods: int = 0

    def max_pods(self, before: int) -> int:
        return before + self.pods if self.pods else math.ceil(before * (1 + self.percent / 100))

    def min_pods(self, before: int) -> int:
        return before - self.pods if self.pods else math.floor(before * (1 - self.percent / 100))


@dataclass(frozen=True)
class Hpa:
    """Kubernetes' HorizontalPodAutoscaler (autoscaling/v2) on requests in flight; defaults as in deploy/helm."""

    target: float = 0.6  # requests in flight a pod
    least: int = 3
    most: int = 30
    tolerance: float = 0.1
    every_s: int = 15
    lag_s: int = 15  # age of the newest figures: half of Prometheus' scrape interval and the adapter's own
    window_s: int = 60  # the range of `rate(...)` in the adapter's query
    up_window_s: int = 0
    down_window_s: int = 300
    up: tuple[ScalingLimit, ...] = (ScalingLimit(15, percent=100), ScalingLimit(15, pods=4))
    down: tuple[ScalingLimit, ...] = (ScalingLimit(60, percent=10),)
    name: str = "hpa"

    def controller(self) -> "HpaController":
        return HpaController(self)


@dataclass
class HpaController:
    """The algorithm of https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/."""

    policy: Hpa
    _asked: "deque[tuple[int, int]]" = field(default_factory=deque)
    _changes: "deque[tuple[int, int]]" = field(default_factory=deque)

    def choose_replicas(self, seen: FleetSnapshot) -> int:
        policy, now, current = self.policy, seen.now, seen.wanted
        value = seen.mean_in_flight_per_replica(policy.lag_s, policy.window_s, with_waiting=False)
        asked = min(
            policy.most, max(policy.least, self._replicas_for_ratio(value / policy.target, seen.ready, current))
        )
        self._asked.append((now, asked))
        longest = max(policy.up_window_s, policy.down_window_s)
        while self._asked[0][0] < now - longest:
            self._asked.popleft()
        lowest = min(each for at, each in self._asked if at >= now - policy.up_window_s)
        highest = max(each for at, each in self._asked if at >= now - policy.down_window_s)
        stable = lowest if current < lowest else highest if current > highest else current
        found = self._limit_change(stable, current, now)
        if found != current:
            self._changes.append((now, found - current))
        return found

    def _replicas_for_ratio(self, ratio: float, ready: int, current: int) -> int:
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

    def _limit_change(self, asked: int, current: int, now: int) -> int:
        policy = self.policy
        longest = max(each.period_s for each in (*policy.up, *policy.down))
        while self._changes and self._changes[0][0] <= now - longest:
            self._changes.popleft()
        if asked > current:
            return min(
                asked, max(each.max_pods(current - self._sum_changes(now, each.period_s, 1)) for each in policy.up)
            )
        if asked < current:
            return max(
                asked, min(each.min_pods(current - self._sum_changes(now, each.period_s, -1)) for each in policy.down)
            )
        return current

    def _sum_changes(self, now: int, period_s: int, sign: int) -> int:
        return sum(change for at, change in self._changes if at > now - period_s and change * sign > 0)


@dataclass(frozen=True)
class Kpa:
    """Knative's autoscaler on concurrency: a stable window, and a short one in panic (knative.dev, autoscaling)."""

    target: float = 0.6
    least: int = 3
    most: int = 30
    every_s: int = 2
    stable_s: int = 60
    panic_s: int = 6
    panic_at: float = 2.0
    up_times: float = 1000.0
    down_times: float = 2.0
    name: str = "kpa"

    def controller(self) -> "KpaController":
        return KpaController(self)


@dataclass
class KpaController:
    """As `pkg/autoscaler/scaling/autoscaler.go` of Knative Serving: in panic it never takes replicas away."""

    policy: Kpa
    _panic_since: int | None = None
    _most_in_panic: int = 0

    def choose_replicas(self, seen: FleetSnapshot) -> int:
        policy, ready = self.policy, max(1, seen.ready)
        stable, panic = (
            min(
                max(
                    math.ceil(seen.mean_in_flight(1, window, with_waiting=True) / policy.target - 1e-9),
                    math.floor(ready / policy.down_times),
                ),
                math.ceil(policy.up_times * ready),
            )
            for window in (policy.stable_s, policy.panic_s)
        )
        if panic / ready >= policy.panic_at:
            self._panic_since = seen.now
        elif self._panic_since is not None and self._panic_since + policy.stable_s < seen.now:
            self._panic_since, self._most_in_panic = None, 0
        wanted = stable
        if self._panic_since is not None:
            wanted = self._most_in_panic = max(stable, panic, self._most_in_panic, ready)
        return min(policy.most, max(policy.least, wanted))


@dataclass(frozen=True)
class RayServe:
    """Ray Serve's autoscaler on ongoing requests; defaults as the test of ray-project/ray#63279 sets them."""

    target: float = 0.1
    least: int = 500
    most: int = 2000
    up_factor: float = 10.0
    down_factor: float = 1.0
    up_delay_s: int = 0
    down_delay_s: int = 30
    window_s: int = 30
    every_s: int = 1
    name: str = "ray"

    def controller(self) -> "RayServeController":
        return RayServeController(self)


@dataclass
class RayServeController:
    """`replica_queue_length_autoscaling_policy` of Ray Serve: the error of the ratio, multiplied by a factor."""

    policy: RayServe
    _since: int = 0
    _sign: int = 0

    def choose_replicas(self, seen: FleetSnapshot) -> int:
        policy, current = self.policy, seen.wanted
        ratio = seen.mean_in_flight(1, policy.window_s, with_waiting=True) / (max(1, seen.ready) * policy.target)
        factor = policy.up_factor if ratio > 1 else policy.down_factor
        asked = math.ceil(max(1, seen.ready) * (1 + (ratio - 1) * factor) - 1e-9)
        asked = min(policy.most, max(policy.least, asked))
        sign = (asked > current) - (asked < current)
        if sign != self._sign:
            self._since, self._sign = seen.now, sign
        delay_s = policy.up_delay_s if sign > 0 else policy.down_delay_s
        return asked if seen.now - self._since >= delay_s else current
