"""The unique mark of a commit, by which an entry of a table's log is recognized."""

import time

from forecache.lake.delta.commit_errors import store_error
from forecache.lake.delta.files import place_of
from forecache.lake.delta.log import read_entry
from forecache.settings import Settings

MARK = "commit"
"""Key in a commit's metadata of a text that no other commit has."""
STORE_FAILURES = 10
"""A commit fails once the object store has failed it so often, after the retries of its client."""
_PAUSE_S = 1.0


def mark_of(settings: Settings, name: str, version: int) -> str | None:
    """Read the mark of a table's version; None if it has none, or does not exist (yet).

    Raises:
        UnavailableError: The object store does not answer: whether the commit was made is not known.
    """
    for attempt in range(STORE_FAILURES):
        try:
            actions = read_entry(place_of(settings, name).open(), version, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            known = store_error(name, error) if settings.lake_is_remote else None
            if known is None:
                raise
            if attempt == STORE_FAILURES - 1:
                raise known from error
            time.sleep(_PAUSE_S)
        else:
            return next((action["commitInfo"].get(MARK) for action in actions if "commitInfo" in action), None)
    raise AssertionError("unreachable")
