"""Networks, losses and trees."""

from typing import Any

from staleness_project.shared.layers import Base


class Network(Base):
    def __init__(self, num_features: int, *, width: int) -> None:
        self.sizes = (num_features, width, 1)


def robust_loss(delta: float) -> Any:
    def loss(output: Any, target: Any) -> Any:
        return huber(output - target, delta)

    return loss


def huber(difference: float, delta: float) -> float:
    return min(difference**2, delta)


def tree() -> Any:
    return TreeBuilder().build()


class TreeBuilder:
    depth = 3

    def build(self) -> Any:
        return self.depth
