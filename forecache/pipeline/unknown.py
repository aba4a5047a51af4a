"""The error for an unknown name, with the closest name and all known ones."""

import difflib
from collections.abc import Iterable

from forecache.errors import NotFoundError


def unknown(name: str, kinds: str, there: Iterable[str], *, where: str) -> NotFoundError:
    """The error for a name that is not found, with the closest name and all known ones.

    Args:
        kinds: The kinds that were searched, such as "pipeline or real-time model".
        there: The known names.
        where: The place that has them, such as the name of the project.
    """
    return NotFoundError(f"There is no {kinds} {name!r}.", remedy=known(name, there, where=where))


def known(name: str, there: Iterable[str], *, where: str) -> str:
    """A remedy for a name that is not found: the closest name and all known ones."""
    found = list(dict.fromkeys(there))
    close = difflib.get_close_matches(name, found, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Those in {where}: {', '.join(found) or 'none'}."
