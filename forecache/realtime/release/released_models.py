"""List the real-time models with releases on this machine; imports little, as every reader calls it all the time."""

from forecache.base.settings import Settings
from forecache.base.table_names import NAME
from forecache.serve.store.layout import REALTIME


def list_released_models(settings: Settings) -> list[str]:
    """Names of the real-time models that have a release folder, in alphabetical order."""
    folder = settings.store_path / REALTIME
    return sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name)) if folder.is_dir() else []
