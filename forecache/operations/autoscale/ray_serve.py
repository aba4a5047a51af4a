"""Ray Serve's autoscaler, on ongoing requests."""

import math
from dataclasses import dataclass

from forecache.operations.autoscale.policy import Seen


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

    def wanted(self, seen: Seen) -> int:
        policy, current = self.policy, seen.wanted
        ratio = seen.in_flight(1, policy.window_s, with_waiting=True) / (max(1, seen.ready) * policy.target)
        factor = policy.up_factor if ratio > 1 else policy.down_factor
        asked = math.ceil(max(1, seen.ready) * (1 + (ratio - 1) * factor) - 1e-9)
        asked = min(policy.most, max(policy.least, asked))
        sign = (asked > current) - (asked < current)
        if sign != self._sign:
            self._since, self._sign = seen.now, sign
        delay_s = policy.up_delay_s if sign > 0 else policy.down_delay_s
        return asked if seen.now - self._since >= delay_s else current
