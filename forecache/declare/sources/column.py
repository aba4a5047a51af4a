"""A column of a source."""

from dataclasses import dataclass
from typing import Literal

from forecache.base.table_names import check_column
from forecache.declare.checks.fields import check_fields, check_value

ColumnType = Literal["string", "int", "bigint", "double", "date", "timestamp", "boolean"]
NUMBERS: tuple[ColumnType, ...] = ("int", "bigint", "double")


@dataclass(frozen=True)
class Column:
    """A column of a source. Rows that break the type, `required`, `minimum` or `maximum` go to quarantine."""

    name: str
    type: ColumnType
    required: bool = True
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""

    def __post_init__(self) -> None:
        owner = f"Column {self.name!r}"
        check_fields(owner, self)
        check_column("A column", self.name)
        for name in ("minimum", "maximum"):
            numeric = getattr(self, name) is None or self.type in NUMBERS
            check_value(owner, name, getattr(self, name), numeric, f"A {self.type} has no limits.")
        if self.minimum is not None and self.maximum is not None:
            rule = f"It is not below the minimum, {self.minimum:g}."
            check_value(owner, "maximum", self.maximum, self.minimum <= self.maximum, rule)
