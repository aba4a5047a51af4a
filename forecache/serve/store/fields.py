"""The fields that a version serves."""

from dataclasses import dataclass
from typing import Any

NUMERIC = ("double", "bigint", "float", "integer")
"""Types of fields that are one number."""
STATE = "state"


@dataclass(frozen=True)
class Field:
    """A served field.

    Attributes:
        type: "double", "bigint", "boolean", "string", "date" or "timestamp"; "array<T>" for lists of one of these or of
            "float", and "array<struct<name:T,...>>" for lists of structures of these. In a packed version all numbers
            are float32: of a "float", an "integer", and a "vector" of `size` of them; a "state" is the bits of an
            int64 or a float64, in two of them.
    """

    name: str
    type: str
    size: int = 1

    @property
    def description(self) -> dict[str, Any]:
        """`name` and `type`, and the `size` of a vector."""
        return {"name": self.name, "type": self.type, **({"size": self.size} if self.type == "vector" else {})}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its numbers in a packed row."""
        return tuple(f"{self.name}_{i}" for i in range(self.size)) if self.type == "vector" else (self.name,)

    @property
    def holds_structs(self) -> bool:
        return self.type.startswith("array<struct<")
