"""Where versions go besides the local store: Redis, and a remote that replicas pull from."""

from typing import Any

from forecache.pipeline import Pipeline
from forecache.results import Progress
from forecache.settings import Settings
from forecache.store.store import Store


def sync_targets(settings: Settings, pipeline: Pipeline, store: Store, progress: Progress) -> dict[str, Any]:
    """Bring every other place that serves this store up to the served version; what was done, by target."""
    return {}
