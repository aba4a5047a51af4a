"""HTML elements and tables; every text and attribute is escaped, as names come from users.

A table is rows of cells on wide screens and a list of cards on narrow ones, for screen readers in both.
"""

from collections.abc import Iterable
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
    return Markup(f"<{name}{written}>{joined(content)}</{name}>")


def section(title: str, name: str, *content: Content) -> Markup:
    """A section of the page under a heading, which is its label and, by the name, its anchor."""
    return tag("section", tag("h2", title, id=name), content, aria_labelledby=name)


def joined(content: Content) -> Markup:
    """Escaped texts and markup, one after the other."""
    if content is None:
        return Markup()
    if isinstance(content, Markup):
        return content
    if isinstance(content, (str, int, float)):
        return Markup(escape(str(content)))
    return Markup("".join(map(joined, content)))


def with_code(sentence: str) -> Markup:
    """A sentence whose parts between backticks are code."""
    parts = sentence.split("`")
    return joined(tag("code", part) if place % 2 else part for place, part in enumerate(parts))


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
