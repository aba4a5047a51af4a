"""The error of a name that nothing has: what was looked for, the name that is close to it, and those there are."""

import difflib
from collections.abc import Iterable

from forecache.errors import NotFoundError


def unknown(name: str, kinds: str, there: Iterable[str], *, where: str) -> NotFoundError:
    """The error.

    Args:
        kinds: All that was looked for, such as "pipeline or real-time model".
        there: The names of those.
        where: Where they are, such as the name of the project.
    """
    return NotFoundError(f"There is no {kinds} {name!r}.", remedy=known(name, there, where=where))


def known(name: str, there: Iterable[str], *, where: str) -> str:
    """A remedy for a name that is not found: the one that is close, and all there are."""
    found = list(dict.fromkeys(there))
    close = difflib.get_close_matches(name, found, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Those in {where}: {', '.join(found) or 'none'}."
