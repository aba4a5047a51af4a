"""Knative's autoscaler, on requests in flight."""

import math
from dataclasses import dataclass

from forecache.operations.autoscale.policy import Seen


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

    def wanted(self, seen: Seen) -> int:
        policy, ready = self.policy, max(1, seen.ready)
        stable, panic = (
            min(
                max(
                    math.ceil(seen.in_flight(1, window, with_waiting=True) / policy.target - 1e-9),
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
