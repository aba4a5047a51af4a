"""A feature of a model: its type in the feature table and in the model's matrix."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from forecache.base.table_names import check_column, check_unique
from forecache.declare.checks.fields import check_fields, check_least, check_value

FeatureType = Literal["number", "integer", "category", "text", "vector"]
_MOST_CATEGORIES = 100_000
_LARGEST = 16_384


@dataclass(frozen=True)
class Feature:
    """A feature. A model takes a float32 matrix; null is unknown, and the model imputes it.

    Attributes:
        log: Apply log1p before scaling, inside the model; of a number or an integer.
        type: What the feature function returns, and what is in the table:
            "number": a number, float32.
            "integer": a whole number, exact in the table (bigint); a model sees the nearest float32, which is exact up
            to 16,777,216.
            "category": a text, a whole number, a date or a boolean, kept as a text; a model sees a code.
            "text": a text, which `embed` makes a vector of when the features are built; the table has the vector.
            "vector": an array of `size` numbers, float32; a model sees each as a column, in order.
        categories: The values of a category that a model knows; None: those of the training split, in order.
        max_categories: Most values of a category that training may learn; with more of them, training is refused.
        size: Numbers in the vector of a text or a vector.
        embed: For a text, `embed(texts)` from a list of n texts, none of them null, to numbers [n, size]. None: words
            are hashed into `size` buckets, ignoring their case, and counted.
    """

    name: str
    description: str = ""
    log: bool = False
    type: FeatureType = "number"
    categories: tuple[str, ...] | None = None
    max_categories: int = 1000
    size: int | None = None
    embed: Callable[[list[str]], Any] | None = None

    def __post_init__(self) -> None:
        owner = f"Feature {self.name!r}"
        check_fields(owner, self)
        check_column("A feature", self.name)
        numeric, wide, a = self.type in ("number", "integer"), self.type in ("text", "vector"), f"A {self.type}"
        check_value(owner, "log", self.log, numeric or not self.log, f"{a} is not scaled; leave it out.")
        fits = self.categories is None or (self.type == "category" and bool(self.categories))
        check_value(owner, "categories", self.categories, fits, "A category has one or more, or None to learn them.")
        check_unique("category", owner, self.categories or ())
        fits = all(self.categories or ())
        check_value(owner, "categories", self.categories, fits, "An empty text is a null; leave it out.")
        check_least(owner, self, 1, "max_categories")
        fits = self.max_categories <= _MOST_CATEGORIES
        check_value(owner, "max_categories", self.max_categories, fits, f"At most {_MOST_CATEGORIES:,}.")
        rule = f"{a} has a size from 1 to {_LARGEST:,}." if wide else f"{a} has none; leave it out."
        fits = self.size is not None and 1 <= self.size <= _LARGEST if wide else self.size is None
        check_value(owner, "size", self.size, fits, rule)
        check_value(owner, "embed", self.embed, self.embed is None or self.type == "text", "Only a text is embedded.")

    @property
    def spark_type(self) -> str:
        """The Spark type of its column in the feature table."""
        return {"number": "float", "integer": "bigint", "category": "string"}.get(self.type, "array<float>")

    @property
    def own_names(self) -> tuple[str, ...]:
        """Its name, and for a vector the names of its columns in a model's matrix."""
        return (self.name, *(f"{self.name}_{i}" for i in range(self.size or 0)))

    @property
    def is_numeric(self) -> bool:
        """True for a single number, which can be a baseline, be cut into quarters, or be scaled."""
        return self.type in ("number", "integer")

    @property
    def computation_inputs(self) -> Any:
        """The parts of the declaration, besides the feature function, that the values in the table depend on."""
        return self.name if self.type == "number" else (self.name, self.type, self.size, self.embed)

    @property
    def training_inputs(self) -> Any:
        """The parts of the declaration, besides the values in the table, that a trained model depends on."""
        known = (self.categories, self.max_categories) if self.type == "category" else ()
        return (self.name, self.log) if self.type == "number" else (self.name, self.log, self.type, *known)
