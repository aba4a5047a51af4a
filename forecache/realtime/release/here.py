"""Which real-time models have a folder of releases on this machine; light, as every reader asks it all the time."""

from forecache.names import NAME
from forecache.settings import Settings

REALTIME = ".realtime"
"""The folder of releases among the stores, whose names begin with a letter."""


def released_here(settings: Settings) -> list[str]:
    """Their names, in alphabetical order."""
    folder = settings.store_path / REALTIME
    return sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name)) if folder.is_dir() else []
