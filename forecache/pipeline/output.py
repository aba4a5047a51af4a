"""The columns of the prediction table that come from the model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Output:
    """A column of the prediction table that the model computes, float64.

    Attributes:
        minimum, maximum: Scores of a model that was trained here are clipped to them; one that was trained elsewhere
            must keep to them itself, or its night is refused.
    """

    name: str
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""

    @property
    def limits(self) -> tuple[float | None, float | None]:
        return self.minimum, self.maximum


@dataclass(frozen=True)
class Segment:
    """A string column cut from an output: labels[i] where bounds[i-1] <= value < bounds[i] (ends open)."""

    name: str
    of: str
    bounds: tuple[float, ...]
    labels: tuple[str, ...]
    description: str = ""
