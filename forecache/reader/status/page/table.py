"""Tables that are rows of cells on wide screens and a list of cards on narrow ones, for screen readers in both."""

from collections.abc import Sequence
from dataclasses import dataclass

from forecache.reader.status.page.markup import Content, Markup, tag


@dataclass(frozen=True)
class Column:
    """
    Attributes:
        title: The heading.
        right: Whether its cells are figures, which are aligned right.
        long: Whether its cells need a separate line on narrow screens.
    """

    title: str
    right: bool = False
    long: bool = False


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Content]]) -> Markup:
    """A table; the first cell of a row is its heading. The caption is for screen readers."""
    head = [tag("th", column.title, scope="col", role="columnheader", class_=_class(column)) for column in columns]
    return tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", tag("tr", head, role="row"), role="rowgroup"),
        tag("tbody", [_row(columns, row) for row in rows], role="rowgroup"),
        role="table",
    )


def _row(columns: Sequence[Column], row: Sequence[Content]) -> Markup:
    first, *others = zip(columns, row, strict=True)
    cells = [tag("th", first[1], scope="row", role="rowheader", class_=_class(first[0]))]
    cells += [tag("td", cell, role="cell", data_title=column.title, class_=_class(column)) for column, cell in others]
    return tag("tr", cells, role="row")


def _class(column: Column) -> str | None:
    return "figure" if column.right else "long" if column.long else None
