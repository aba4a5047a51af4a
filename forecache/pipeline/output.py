"""The columns of the prediction table that come from the model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Output:
    """A column of the prediction table that the model computes, float64."""

    name: str
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""


@dataclass(frozen=True)
class Segment:
    """A string column cut from an output: labels[i] where bounds[i-1] <= value < bounds[i] (ends open)."""

    name: str
    of: str
    bounds: tuple[float, ...]
    labels: tuple[str, ...]
    description: str = ""
