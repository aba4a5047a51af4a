"""Small HTML tables for notebooks: the facts of one thing, and rows. Every text is escaped."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MOST_CHARACTERS = 120
"""Characters of a value in a row that are shown."""
_MOST_OF_FACT = 400
_LEFT = ' style="text-align:left;vertical-align:top"'


def facts_html(title: str, facts: Mapping[str, Any]) -> str:
    """A table with a line for each fact under a title; of a list each value has a line, and empty facts are left out.

    A text is cut after 400 characters.
    """
    shown = {name: value for name, value in facts.items() if value not in (None, "", (), [], {})}
    lines = "".join(
        f"<tr><th{_LEFT}>{_text(name)}</th><td{_LEFT}>{_lines(value)}</td></tr>" for name, value in shown.items()
    )
    return f"<table><caption{_LEFT}>{_text(title, _MOST_OF_FACT)}</caption><tbody>{lines}</tbody></table>"


def rows_html(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "") -> str:
    """A table of rows with the names of their columns; a cell is cut after `MOST_CHARACTERS`."""
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    lines = "".join(f"<tr>{''.join(f'<td>{_text(value)}</td>' for value in row)}</tr>" for row in rows)
    about = f"<caption{_LEFT}>{_text(caption, _MOST_OF_FACT)}</caption>"
    return f"<table>{about}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def value_text(value: Any, most: int = MOST_CHARACTERS) -> str:
    """A value in at most so many characters: a float with six digits, None as nothing, what is longer cut."""
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(value: Any, most: int = MOST_CHARACTERS) -> str:
    return html.escape(value_text(value, most))


def _lines(fact: Any) -> str:
    return "<br>".join(_text(each, _MOST_OF_FACT) for each in (fact if isinstance(fact, (list, tuple)) else [fact]))
