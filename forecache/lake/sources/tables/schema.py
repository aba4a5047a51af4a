"""Check that an existing table has the columns that its source declares."""

import re
from collections.abc import Mapping

from forecache.declare import ColumnType, TableSource
from forecache.lake.sources.tables.pinned_table import source_error

_FITS: dict[str, tuple[str, ...]] = {
    "string": ("string", "large_string"),
    "int": ("integer", "short", "byte", "int32", "int16", "int8"),
    "bigint": ("long", "integer", "short", "byte", "int64", "int32", "int16", "int8"),
    "double": ("double", "float", "float64", "float32"),
    "date": ("date", "date32[day]"),
    "timestamp": ("timestamp", "timestamp_ntz"),
    "boolean": ("boolean", "bool"),
}
"""By declared type, the types of Delta and of Arrow whose values all fit; a decimal is also read as a double."""
_DECIMAL = re.compile(r"decimal\d*\((\d+), ?(-?\d+)\)")


def require_source_columns(source: TableSource, types: Mapping[str, str], *, where: str) -> None:
    """Refuse a table that lacks a declared column, or has it with a type that does not fit.

    Args:
        types: By column, its type as Delta or Arrow names it.
        where: Place of the types for messages, such as "version 12".

    Raises:
        InputError: With table, column and both types.
    """
    for column in source.columns:
        found = types.get(column.name)
        if found is None:
            listed = ", ".join(types) or "none"
            raise source_error(
                source,
                f"{where} has no column {column.name!r}",
                f"Declare the columns that it has ({listed}), or mend the table.",
            )
        if not _fits(found, column.type):
            raise source_error(
                source,
                f"in {where} the column {column.name!r} is a {found}, and it is declared as a {column.type}",
                "Declare the type that the table has, or mend the table.",
            )


def _fits(found: str, declared: ColumnType) -> bool:
    if found in _FITS[declared]:
        return True
    decimal = _DECIMAL.match(found)
    if decimal is not None:
        is_whole = int(decimal[1]) <= 18 and int(decimal[2]) == 0
        return declared == "double" or (declared == "bigint" and is_whole)
    return declared == "timestamp" and found.startswith("timestamp[")
