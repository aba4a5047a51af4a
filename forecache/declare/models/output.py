"""Columns of the prediction table that come from the model: outputs of several kinds, and segments cut from them."""

from dataclasses import dataclass

from forecache.base.output_kinds import VALUE_TYPES, OutputSpec
from forecache.base.table_names import check_column, check_unique
from forecache.declare.checks import check_fields, check_least, check_value


@dataclass(frozen=True)
class Output:
    """A number: a column of float64.

    Attributes:
        minimum: Scores of a model that was trained here are clipped to it; if another model returns a lower score, the
            as-of date is refused.
        maximum: As `minimum`.
    """

    name: str
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""

    def __post_init__(self) -> None:
        _check_output(self, self.name)
        _check_limits(self, self.minimum, self.maximum)

    @property
    def spec(self) -> OutputSpec:
        return OutputSpec(self.name, "number", *_float_limits(self.minimum, self.maximum))


@dataclass(frozen=True)
class Classes:
    """One of several classes: `name` (string) is the most likely one, the first of those that are equally likely.

    `<name>_probabilities` is list<struct<class: string, probability: double>>, the most likely class first.

    Attributes:
        labels: The classes; None: those of the training split, or those that the model's signature records.
        probabilities: Most classes of a row whose probability is kept; None: all; 0: there is no such column.
    """

    name: str
    labels: tuple[str, ...] | None = None
    probabilities: int | None = None
    description: str = ""

    def __post_init__(self) -> None:
        owner = _check_output(self, self.name)
        check_least(owner, self, 0, "probabilities")
        if self.labels is not None:
            check_value(
                owner, "labels", self.labels, len(self.labels) > 1, "Name two classes or more, or leave it out."
            )
            check_unique("class", owner, self.labels)

    @property
    def spec(self) -> OutputSpec:
        return OutputSpec(self.name, "classes", classes=self.labels or (), top=self.probabilities)


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of a number: a column of float64 for each level, such as `spend_q10`, none below one of a lower level.

    Attributes:
        levels: Between 0 and 1, ascending.
        minimum: As for `Output`, for every quantile.
        maximum: As `minimum`.
    """

    name: str
    levels: tuple[float, ...] = (0.1, 0.5, 0.9)
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""

    def __post_init__(self) -> None:
        owner = _check_output(self, self.name)
        ascending = all(low < high for low, high in zip((0.0, *self.levels), (*self.levels, 1.0), strict=True))
        rule = "They ascend, each more than 0 and less than 1."
        check_value(owner, "levels", self.levels, bool(self.levels) and ascending, rule)
        _check_limits(self, self.minimum, self.maximum)

    @property
    def spec(self) -> OutputSpec:
        levels = tuple(float(level) for level in self.levels)
        return OutputSpec(self.name, "quantiles", *_float_limits(self.minimum, self.maximum), levels=levels)


@dataclass(frozen=True)
class Vector:
    """A vector of `size` numbers, such as an embedding: a column of list<float>. No drift is judged of it."""

    name: str
    size: int
    description: str = ""

    def __post_init__(self) -> None:
        check_least(_check_output(self, self.name), self, 1, "size")

    @property
    def spec(self) -> OutputSpec:
        return OutputSpec(self.name, "vector", width=int(self.size))


@dataclass(frozen=True)
class Text:
    """A text: a column of string. A model that is trained here returns none; no drift is judged of it."""

    name: str
    description: str = ""

    def __post_init__(self) -> None:
        _check_output(self, self.name)

    @property
    def spec(self) -> OutputSpec:
        return OutputSpec(self.name, "text")


@dataclass(frozen=True)
class Boolean:
    """Yes or no: a column of boolean. A model that is trained here returns none; no drift is judged of it."""

    name: str
    description: str = ""

    def __post_init__(self) -> None:
        _check_output(self, self.name)

    @property
    def spec(self) -> OutputSpec:
        return OutputSpec(self.name, "boolean")


@dataclass(frozen=True)
class Structs:
    """A list of structures: a column of list<struct>, of any length. A model that is trained here returns none.

    Attributes:
        fields: Name and type of each field; types are those of Spark, such as "string", "double" and "bigint".
    """

    name: str
    fields: tuple[tuple[str, ...], ...]
    description: str = ""

    def __post_init__(self) -> None:
        owner = _check_output(self, self.name)
        types = [kind for kind in VALUE_TYPES if kind != "binary"]  # the store serves none
        rule = f"Each is a name and a type of {', '.join(types)}."
        pairs = all(len(field) == 2 and field[1] in types for field in self.fields)
        check_value(owner, "fields", self.fields, bool(self.fields) and pairs, rule)
        check_unique("field", owner, [field[0] for field in self.fields])
        for field in self.fields:
            check_column(owner, field[0])

    @property
    def spec(self) -> OutputSpec:
        return OutputSpec(self.name, "structs", fields=tuple((field[0], field[1]) for field in self.fields))


AnyOutput = Output | Classes | Quantiles | Vector | Text | Boolean | Structs


def _check_output(output: AnyOutput, name: str) -> str:
    owner = f"{type(output).__name__} {name!r}"
    check_fields(owner, output)
    check_column("An output", name)
    return owner


def _check_limits(output: Output | Quantiles, low: float | None, high: float | None) -> None:
    if low is not None and high is not None:
        rule = f"It is more than the minimum, {low:g}."
        check_value(f"{type(output).__name__} {output.name!r}", "maximum", high, low < high, rule)


def _float_limits(low: float | None, high: float | None) -> tuple[float | None, float | None]:
    return None if low is None else float(low), None if high is None else float(high)


@dataclass(frozen=True)
class Segment:
    """A string column cut from a number: labels[i] where bounds[i-1] <= value < bounds[i] (ends open).

    Attributes:
        of: An output that is a number, or a column of quantiles such as "spend_q50".
    """

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
