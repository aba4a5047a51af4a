"""Updates of Redis, and of the remote that replicas pull from, after the local store has changed."""

from collections.abc import Mapping
from typing import Any

from forecache.base.folders import Folder, open_folder
from forecache.base.plugins import load_hook
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import Served
from forecache.serve.store.locks import publisher_lock
from forecache.serve.store.store import Store


def open_remote(uri: str, options: Mapping[str, str]) -> Folder:
    """Open the folder or bucket that versions are pushed to and pulled from; its files are named as in the store.

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
    """Update Redis and the remote to the version served here, after a publish, rollback or pin.

    Idempotent. Each target serves its old version until the new one is complete and verified there. The caller holds
    the publisher's lock.

    Args:
        pipeline: Its declaration, None if it is not declared any more: then Redis is not updated.

    Returns:
        The results by target: "redis" if the pipeline's back end is Redis, "remote" if one is set.
    """
    done: dict[str, Any] = {}
    if pipeline is not None and pipeline.publish is not None and pipeline.publish.backend == "redis":
        done["redis"] = load_hook("redis", "open_store")(settings, pipeline.name).load(store, progress=progress)
    if settings.store_remote:
        from forecache.serve.store.replicas.live_layer import push_stream_only_stores
        from forecache.serve.store.replicas.push_pull import push

        remote = open_remote(settings.store_remote, settings.storage_options)
        keep = None if pipeline is None else pipeline.publishing.keep
        done["remote"] = push(store, remote, keep=keep, progress=progress)
        push_stream_only_stores(settings, remote)
    return done


def sync_served(
    settings: Settings, pipeline: Served | None, store: Store, progress: Progress = no_progress
) -> dict[str, Any]:
    """`sync_targets` under the publisher's lock, so that it overwrites no newer publish; {} if nothing is served.

    Raises:
        ConflictError: Another process is changing the store.
    """
    with publisher_lock(store.layout, action="sync"):
        return {} if store.pointer().serving is None else sync_targets(settings, pipeline, store, progress)
