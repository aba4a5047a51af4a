"""Where versions go besides the local store: Redis, and a remote that replicas pull from."""

from typing import Any

from forecache.pipeline import Pipeline
from forecache.results import Progress, no_progress
from forecache.settings import Settings
from forecache.store.store import Store


def sync_targets(
    settings: Settings, pipeline: Pipeline, store: Store, progress: Progress = no_progress
) -> dict[str, Any]:
    """Bring every other place that serves this store up to the version served here, after a publish, rollback or pin.

    Doing it again changes nothing. Each place keeps serving what it served until the new version is whole and
    verified there.

    Returns:
        What was done, by target: "redis" where the pipeline's back end is Redis, "remote" where one is set.
    """
    done: dict[str, Any] = {}
    if pipeline.publish.backend == "redis":
        from forecache.store.redis_backend import open_redis_store

        done["redis"] = open_redis_store(settings, pipeline.name).load(store, progress=progress)
    if settings.store_remote:
        from forecache.store.distribution import push
        from forecache.store.remotes import open_remote

        done["remote"] = push(store, open_remote(settings.store_remote, settings.storage_options), progress=progress)
    return done
