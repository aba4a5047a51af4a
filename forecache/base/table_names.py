"""Names: their pattern, those of tables and of own columns, their checks, and errors for unknown ones."""

import difflib
import re
from collections.abc import Iterable, Sequence

from forecache.base.errors import NotFoundError, SettingsError

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


RAW, QUARANTINE, TABLE = "raw_", "quarantine_", "table_"  # prefixes of the tables of a source
TILES = "tiles_"  # prefix of the table of a view's tiles
REQUEST_LOG = "request_log_"  # prefix of the table of a real-time model's logged answers
STREAM, STREAM_QUARANTINE = "stream_", "stream_quarantine_"
"""Prefixes of the tables of a stream's rows and of its bad messages."""
FEATURES, TRAINING_SET, PREDICTIONS = "features_", "training_set_", "predictions_"
"""Prefixes of the tables of a pipeline."""
_KEPT = re.compile(r"(?P<view>[a-z][a-z0-9_]*)__(?P<contract>[0-9a-f]{16})")
MAIL_TABLE = "mail_ledger"  # the table of the messages of all mailings
AS_OF = "as_of"
REQUEST_ID, POSITION, EVENT_TIMESTAMP = "request_id", "position", "event_timestamp"
"""Columns of a real-time model's examples: request, place of the candidate in it, and time of the request."""
PROVENANCE_COLUMNS = ("model_name", "model_version", "feature_version", "scored_at", "run_id")
SOURCE_COLUMNS = ("event_day", "source_file", "source_line", "ingested_at")


def check_name(kind: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise SettingsError(
            f"The {kind} name {name!r} is not usable as a table name.",
            remedy="Use lower-case letters, digits and underscores, starting with a letter, at most 63.",
        )


def kept_name(view: str, contract: str) -> str:
    """Return the name of an earlier contract of a feature view: that of its store, and a part of those of its tables.

    A view whose name has more than 45 characters has no valid one.
    """
    return f"{view}__{contract}"


def split_kept_name(name: str) -> tuple[str, str] | None:
    """Return the view and the contract of the name of a kept contract; None for any other name."""
    found = _KEPT.fullmatch(name)
    return None if found is None else (found["view"], found["contract"])


def check_column(owner: str, name: str) -> None:
    """Refuse a column name that Delta or SQL would not take without quotes."""
    if not name or any(character in " ,;{}()\n\t=`\"'" for character in name):
        raise SettingsError(
            f"{owner} has the column name {name!r}, which a table cannot have.",
            remedy="Use letters, digits and underscores.",
        )


def check_unique(kind: str, owner: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise SettingsError(f"{owner} declares the {kind} {twice[0]!r} twice.", remedy="Rename or remove one.")


def unknown_name_error(name: str, kinds: str, there: Iterable[str], *, where: str) -> NotFoundError:
    """Return the error for a name that is not found, with the closest name and all known ones.

    `kinds` are those that were searched, such as "pipeline or real-time model", and `where` has the names, such as the
    project.
    """
    return NotFoundError(f"There is no {kinds} {name!r}.", remedy=known_names_remedy(name, there, where=where))


def closest_hint(name: str, known: Iterable[str]) -> str:
    """ "Did you mean 'customer'? " with the closest of the known names, or "" if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}? " if close else ""


def list_names(names: Iterable[str], *, most: int = 30) -> str:
    """Names in a sentence; of more than `most`, the first ones and the number of the others."""
    listed = list(dict.fromkeys(names))
    if len(listed) <= most:
        return ", ".join(listed) or "none"
    return f"{', '.join(listed[:most])} and {len(listed) - most:,} more"


def known_names_remedy(name: str, there: Iterable[str], *, where: str) -> str:
    """A remedy for a name that is not found: the closest name and all known ones."""
    found = list(dict.fromkeys(there))
    return f"{closest_hint(name, found)}Those in {where}: {', '.join(found) or 'none'}."
