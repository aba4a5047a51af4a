"""What nights depend on of a source, and whether it has delivered what they need."""

from collections.abc import Collection
from datetime import date
from urllib.parse import quote

from forecache.lake.ingest.ingested import file_of_state, ingested_files, raw_state, require_days
from forecache.pipeline import Source
from forecache.settings import Settings


def source_state(settings: Settings, source: Source, nights: Collection[date]) -> dict[date, str]:
    """By night, a text that differs wherever the rows that the night may see of the source differ."""
    files = ingested_files(settings, source)
    if source.time is None:
        return {night: f"{source.raw_table}@{raw_state(settings, source, night, files=files)}" for night in nights}
    states = {}
    for night in nights:
        file = file_of_state(source, files, night)
        version, name = (file.raw_version, quote(file.file)) if file else (-1, "none")
        states[night] = f"{source.raw_table}@{version} {source.name}={name}"
    return states


def require_delivered(settings: Settings, source: Source, nights: Collection[date]) -> None:
    """Refuse nights for which the source has not delivered, as its `missing` says.

    Raises:
        InputError: Names the night, what became of its delivery, and the remedy.
        NotYetError: The source waits for the delivery.
    """
    require_days(settings, source, nights)
