"""Where versions go besides the local store: Redis, and a remote that replicas pull from."""

from collections.abc import Mapping
from typing import Any

from forecache.folders import Folder, open_folder
from forecache.pipeline import Served
from forecache.results import Progress, no_progress
from forecache.settings import Settings
from forecache.store.locks import publisher_lock
from forecache.store.store import Store


def open_remote(uri: str, options: Mapping[str, str]) -> Folder:
    """The folder or bucket that versions are pushed to and pulled from; its files have the names of the store's own.

    Raises:
        SettingsError: The URI has a scheme that is not supported.
        UnavailableError: `obstore` is needed and not installed.
    """
    return open_folder(uri, options, setting="FORECACHE_STORE_REMOTE")


def remote_pipelines(remote: Folder) -> list[str]:
    """The pipelines that a remote serves, in alphabetical order."""
    return sorted(name for name in remote.folders() if remote.size(f"{name}/CURRENT") is not None)


def sync_targets(
    settings: Settings, pipeline: Served | None, store: Store, progress: Progress = no_progress
) -> dict[str, Any]:
    """Bring every other place that serves this store up to the version served here, after a publish, rollback or pin.

    Doing it again changes nothing. Each place keeps serving what it served until the new version is whole and
    verified there. The caller holds the publisher's lock.

    Args:
        pipeline: Its declaration, None where it is not declared any more: then nothing says that Redis serves it.

    Returns:
        What was done, by target: "redis" where the pipeline's back end is Redis, "remote" where one is set.
    """
    done: dict[str, Any] = {}
    if pipeline is not None and pipeline.publish is not None and pipeline.publish.backend == "redis":
        from forecache.store.redis.versions import open_redis_store

        done["redis"] = open_redis_store(settings, pipeline.name).load(store, progress=progress)
    if settings.store_remote:
        from forecache.store.replicas.layer import push_streamed
        from forecache.store.replicas.push_pull import push

        remote = open_remote(settings.store_remote, settings.storage_options)
        keep = None if pipeline is None else pipeline.publishing.keep
        done["remote"] = push(store, remote, keep=keep, progress=progress)
        push_streamed(settings, remote)
    return done


def sync_served(
    settings: Settings, pipeline: Served | None, store: Store, progress: Progress = no_progress
) -> dict[str, Any]:
    """`sync_targets` under the publisher's lock, which keeps a publish meanwhile from being overwritten by older news.

    A store that serves nothing yet has nothing to bring anywhere.

    Raises:
        ConflictError: Another process is changing the store.
    """
    with publisher_lock(store.layout, action="sync"):
        return {} if store.pointer().serving is None else sync_targets(settings, pipeline, store, progress)
