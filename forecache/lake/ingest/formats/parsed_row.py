"""The parsed row, which all formats yield, and the checks that they share."""

from collections.abc import Iterable
from dataclasses import dataclass

from forecache.base.errors import InputError
from forecache.declare import Source

KEPT_BYTES = 1 << 16
"""The text of an unreadable row is cut to this length."""


@dataclass(frozen=True)
class ParsedRow:
    """One row of a landing file.

    Line 0 is about the file itself: its checksum, and its row count or the reason why it cannot be read.
    """

    line: int
    values: tuple[str | None, ...]
    content: str | None = None
    error: str | None = None
    sha256: str | None = None
    counted_rows: int | None = None


def column_names(source: Source) -> list[str]:
    """The columns that a source declares, in their order."""
    return [column.name for column in source.columns]


def require_declared_columns(found: Iterable[str], source: Source) -> None:
    """Raise InputError if a file's columns are not those that the source declares."""
    found, names = list(found), column_names(source)
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(f"the column {missing[0]!r} is missing")
    unknown = [name for name in found if name not in names]
    if unknown:
        raise InputError(f"the column {unknown[0]!r} is not declared by source {source.name!r}")
    if len(found) > len(names):
        twice = next(name for name in names if found.count(name) > 1)
        raise InputError(f"the column {twice!r} is there twice")


def escape_surrogates(text: str) -> str:
    """Escape lone surrogates, which UTF-8 cannot encode."""
    return text.encode(errors="backslashreplace").decode()
