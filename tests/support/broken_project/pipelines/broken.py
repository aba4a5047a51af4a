"""Pipelines like `returns` whose network cannot be built, or whose loss fails at the first step."""

from dataclasses import replace
from typing import Any

from sample_project.pipelines import visits

from forecache.declare import TorchModel


def no_network(num_features: int) -> Any:
    raise ValueError(f"cannot build for {num_features} features")


def wrong_loss(output: Any, target: Any) -> Any:
    return output.sum() / 0


broken = replace(visits.returns, name="broken", model=TorchModel(build=no_network))
wrong = replace(visits.returns, name="wrong", model=TorchModel(build=visits.network, loss=wrong_loss))
