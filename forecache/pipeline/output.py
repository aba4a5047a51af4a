"""The columns of the prediction table that come from the model."""

from dataclasses import dataclass

from forecache.pipeline.checking import check_fields, check_value
from forecache.pipeline.names import check_column


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

    def __post_init__(self) -> None:
        owner = f"Output {self.name!r}"
        check_fields(owner, self)
        check_column("An output", self.name)
        if self.minimum is not None and self.maximum is not None:
            rule = f"It is more than the minimum, {self.minimum:g}."
            check_value(owner, "maximum", self.maximum, self.minimum < self.maximum, rule)

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """Smallest and largest output, each a number or None."""
        low, high = (None if limit is None else float(limit) for limit in (self.minimum, self.maximum))
        return low, high


@dataclass(frozen=True)
class Segment:
    """A string column cut from an output: labels[i] where bounds[i-1] <= value < bounds[i] (ends open)."""

    name: str
    of: str
    bounds: tuple[float, ...]
    labels: tuple[str, ...]
    description: str = ""

    def __post_init__(self) -> None:
        owner = f"Segment {self.name!r}"
        check_fields(owner, self)
        check_column("A segment", self.name)
        ascending = all(low < high for low, high in zip(self.bounds, self.bounds[1:], strict=False))
        check_value(owner, "bounds", self.bounds, ascending, "They ascend.")
