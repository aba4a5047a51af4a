"""Scaling policies: their protocol, the figures that they decide by, and a fixed number of replicas."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class FleetSnapshot:
    """The figures that a controller decides by.

    Attributes:
        now: Second of the day.
        ready: Replicas that take requests.
        wanted: Replicas that were requested; those that are not ready are starting.
        busy: By second up to now, requests that workers were answering, over all replicas.
        waiting: By second up to now, requests that waited for a worker or for a ready replica.
        replicas: By second up to now, ready replicas.
    """

    now: int
    ready: int
    wanted: int
    busy: Sequence[float]
    waiting: Sequence[float]
    replicas: Sequence[int]

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
