"""What nights depend on of a source, and whether it has delivered what they need."""

from collections.abc import Collection
from datetime import date

from forecache.lake.ingest.ingested import ingested_files, raw_state, require_days
from forecache.pipeline import Source
from forecache.settings import Settings


def source_state(settings: Settings, source: Source, nights: Collection[date]) -> dict[date, str]:
    """By night, a text that differs wherever the rows that the night may see of the source differ."""
    files = ingested_files(settings, source)
    return {night: f"{source.raw_table}@{raw_state(settings, source, night, files=files)}" for night in nights}


def require_delivered(settings: Settings, source: Source, nights: Collection[date]) -> None:
    """Refuse nights for which the source has not delivered.

    Raises:
        InputError: Names the night, what became of its delivery, and the remedy.
    """
    require_days(settings, source, nights)
