"""The types that a key column can have in a declaration, in Arrow, and in the store; defined only here."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

KEY_TYPES = ("string", "int", "uuid", "date")
"""A key column's type as the store names it."""

DECLARED = {"string": "string", "int": "int", "bigint": "int", "date": "date"}
"""The store's type by the declared type of a column that can be a key.

Doubles cannot: they have several texts; nor can booleans, which have only two values.
"""

ALLOWED = "Keys are strings, integers, dates, or UUIDs as 16 bytes."


def key_type_of_arrow(kind: "pa.DataType") -> str | None:
    """The store's type for an Arrow type; None for one that cannot be a key."""
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        return "int"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "uuid"
    return "date" if pa.types.is_date(kind) else None
