"""HTML elements and tables; every text and attribute is escaped, as names come from users.

A table is rows of cells on wide screens and a list of cards on narrow ones, for screen readers in both.
"""

from collections.abc import Collection, Iterable, Sequence
from html import escape

_VOID = frozenset({"meta", "link", "input", "rect", "circle", "line", "polyline", "polygon"})


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
        return Markup(f"<{name}{written}>" if name in ("meta", "link", "input") else f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join_content(content)}</{name}>")


def section(title: Content, name: str, *content: Content) -> Markup:
    """A section of the page under a heading, which is its label and, by the name, its anchor."""
    return tag("section", tag("h2", title, id=name), content, aria_labelledby=name)


def join_content(content: Content) -> Markup:
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


def table(
    caption: str,
    titles: Sequence[str],
    rows: Iterable[Sequence[Content]],
    *,
    right: Collection[int] = (),
    long: Collection[int] = (),
) -> Markup:
    """A table; the first cell of a row is its heading. The caption is for screen readers.

    The cells of the columns at the places `right` are figures; those of `long` need a line on narrow screens.
    """
    kinds = ["figure" if at in right else "long" if at in long else None for at in range(len(titles))]
    head = [
        tag("th", title, scope="col", role="columnheader", class_=kind)
        for title, kind in zip(titles, kinds, strict=True)
    ]
    return tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", tag("tr", head, role="row"), role="rowgroup"),
        tag("tbody", [_row(titles, kinds, row) for row in rows], role="rowgroup"),
        role="table",
    )


def _row(titles: Sequence[str], kinds: Sequence[str | None], row: Sequence[Content]) -> Markup:
    cells = [
        tag("td", cell, role="cell", data_title=title, class_=kind)
        for title, kind, cell in zip(titles[1:], kinds[1:], row[1:], strict=True)
    ]
    return tag("tr", tag("th", row[0], scope="row", role="rowheader", class_=kinds[0]), cells, role="row")
