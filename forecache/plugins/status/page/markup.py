"""HTML elements and tables; every text and attribute is escaped, as names come from users.

A table is rows of cells on wide screens and a list of cards on narrow ones, for screen readers in both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_VOID = frozenset({"meta", "link", "rect", "circle", "line", "polyline", "polygon"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | int | float | None | Iterable["Content"]
"""A text, a number, nothing, or several of them."""


def tag(name: str, /, *content: Content, **attributes: str | int | float | bool | None) -> Markup:
    """An element. `class_` is the attribute `class`, `_` in others is `-`; None and False leave an attribute out."""
    given = {key: value for key, value in attributes.items() if value is not None and value is not False}
    written = "".join(_attribute(key, value) for key, value in given.items())
    if name in _VOID:
        return Markup(f"<{name}{written}>" if name in ("meta", "link") else f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join_content(content)}</{name}>")


def section(title: str, name: str, *content: Content) -> Markup:
    """A section of the page under a heading, which is its label and, by the name, its anchor."""
    return tag("section", tag("h2", title, id=name), content, aria_labelledby=name)


def join_content(content: Content) -> Markup:
    """Escaped texts and markup, one after the other."""
    if content is None:
        return Markup()
    if isinstance(content, Markup):
        return content
    if isinstance(content, (str, int, float)):
        return Markup(escape(str(content)))
    return Markup("".join(map(join_content, content)))


def mark_code(sentence: str) -> Markup:
    """A sentence whose parts between backticks are code."""
    parts = sentence.split("`")
    return join_content(tag("code", part) if place % 2 else part for place, part in enumerate(parts))


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


@dataclass(frozen=True)
class TableColumn:
    """
    Attributes:
        title: The heading.
        right: Whether its cells are figures, which are aligned right.
        long: Whether its cells need a separate line on narrow screens.
    """

    title: str
    right: bool = False
    long: bool = False


def table(caption: str, columns: Sequence[TableColumn], rows: Sequence[Sequence[Content]]) -> Markup:
    """A table; the first cell of a row is its heading. The caption is for screen readers."""
    head = [tag("th", column.title, scope="col", role="columnheader", class_=_class(column)) for column in columns]
    return tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", tag("tr", head, role="row"), role="rowgroup"),
        tag("tbody", [_row(columns, row) for row in rows], role="rowgroup"),
        role="table",
    )


def _row(columns: Sequence[TableColumn], row: Sequence[Content]) -> Markup:
    first, *others = zip(columns, row, strict=True)
    cells = [tag("th", first[1], scope="row", role="rowheader", class_=_class(first[0]))]
    cells += [tag("td", cell, role="cell", data_title=column.title, class_=_class(column)) for column, cell in others]
    return tag("tr", cells, role="row")


def _class(column: TableColumn) -> str | None:
    return "figure" if column.right else "long" if column.long else None
