"""A model that is a function: how much a customer has been at it of late."""

from collections.abc import Mapping
from typing import Any


def pace(features: Mapping[str, Any]) -> Any:
    return features["spent_2d"] * 0.125 + features["payments_2d"]
