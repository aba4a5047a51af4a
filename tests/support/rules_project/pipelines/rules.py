"""Functions of the features as models, right and wrong ones, over the features of `scoring_support`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rules_project.weights import STEEPNESS


def rules(features: Mapping[str, Any]) -> Any:
    """High where f1 is, unless f0 is unknown or negative; exp and a product, whose last bits are easily moved."""
    likely = 1 / (1 + np.exp(-STEEPNESS * features["f1"].astype(np.float64) * features["f2"]))
    return np.where(np.isnan(features["f0"]), 0.5, np.where(features["f0"] < 0, 0.1 * likely, likely))


def two_outputs(features: Mapping[str, Any]) -> Any:
    return {"probability": rules(features), "rank": np.nan_to_num(features["f3"])}


def compared(features: Mapping[str, Any]) -> Any:
    return features["f1"] - features["f1"].mean()


def short(features: Mapping[str, Any]) -> Any:
    return features["f1"][:1]


def failing(features: Mapping[str, Any]) -> Any:
    return features["f1"] * features["age"]


def greedy(features: Mapping[str, Any]) -> Any:
    features["f1"][:] = 0
    return features["f1"]
