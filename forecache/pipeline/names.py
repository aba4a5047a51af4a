"""Names that the framework puts into tables itself, and the checks of those that a declaration gives."""

from collections.abc import Sequence

from forecache.errors import SettingsError
from forecache.names import NAME

RAW, QUARANTINE, TABLE = "raw_", "quarantine_", "table_"
"""What the tables of a source are called, before its name."""
TILES = "tiles_"
"""What the table of a view's tiles is called, before its name."""
REQUEST_LOG = "request_log_"
"""What the table of a real-time model's logged answers is called, before its name."""
STREAM, STREAM_QUARANTINE = "stream_", "stream_quarantine_"
"""What the tables of a stream's rows and of its bad messages are called, before its name."""
FEATURES, TRAINING_SET, PREDICTIONS = "features_", "training_set_", "predictions_"
"""What the tables of a pipeline are called, before its name."""
AS_OF = "as_of"
REQUEST_ID, POSITION, EVENT_TIMESTAMP = "request_id", "position", "event_timestamp"
"""Of the examples of a real-time model: which request, the place of a candidate in it, and when it was made."""
REQUEST_KEY = (REQUEST_ID, POSITION)
"""The key of a pipeline whose rows are those of requests to a real-time model."""
PROVENANCE_COLUMNS = ("model_name", "model_version", "feature_version", "scored_at", "run_id")
SOURCE_COLUMNS = ("event_day", "source_file", "source_line", "ingested_at")


def check_name(kind: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise SettingsError(
            f"The {kind} name {name!r} is not usable as a table name.",
            remedy="Use lower-case letters, digits and underscores, starting with a letter, at most 63.",
        )


def check_column(owner: str, name: str) -> None:
    """Refuse a column name that Delta or SQL would not take as it stands."""
    if not name or any(character in " ,;{}()\n\t=`\"'" for character in name):
        raise SettingsError(
            f"{owner} has the column name {name!r}, which a table cannot have.",
            remedy="Use letters, digits and underscores.",
        )


def check_unique(kind: str, owner: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise SettingsError(f"{owner} declares the {kind} {twice[0]!r} twice.", remedy="Rename or remove one.")
