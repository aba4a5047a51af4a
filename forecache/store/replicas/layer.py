"""Telling replicas which live layer a store has. Its rows do not travel: each replica follows the stream for itself."""

from forecache.folders import Folder
from forecache.names import NAME
from forecache.settings import Settings
from forecache.store.live.layer import layer_from_json, stores_with_layers, write_layer
from forecache.store.locks import publisher_lock
from forecache.store.store import Store, open_store


def push_layer(store: Store, remote: Folder) -> None:
    """Tell a remote which live layer the store has; replicas fill it from the stream's table for themselves."""
    name = f"{store.pipeline}/{store.layout.live.name}"
    try:
        content = store.layout.live.read_bytes()
    except FileNotFoundError:
        if remote.size(name) is not None:
            remote.delete([name])
        return
    there = remote.read(name)
    if there is None or there[0] != content:
        remote.write(name, content)


def pull_layer(store: Store, remote: Folder) -> None:
    """Have the live layer that a remote tells of, or none."""
    layout = store.layout
    found = remote.read(f"{store.pipeline}/{layout.live.name}")
    if found is None:
        layout.live.unlink(missing_ok=True)
        return
    write_layer(layout, layer_from_json(found[0], what=f"The remote's {store.pipeline}/{layout.live.name}"))


def push_streamed(settings: Settings, remote: Folder) -> list[str]:
    """Tell a remote of the stores that only a stream fills, which are never published; returns their names."""
    stores = [open_store(settings, name) for name in stores_with_layers(settings.store_path)]
    alone = [store for store in stores if store.pointer().current is None]
    for store in alone:
        push_layer(store, remote)
    return [store.pipeline for store in alone]


def pull_streamed(settings: Settings, remote: Folder) -> list[str]:
    """Have the stores that only a stream fills, as a remote tells of them; returns their names."""
    names = [
        name
        for name in sorted(remote.folders())
        if NAME.fullmatch(name) and remote.size(f"{name}/CURRENT") is None and remote.size(f"{name}/LIVE") is not None
    ]
    for name in names:
        store = open_store(settings, name)
        with publisher_lock(store.layout, action="pull"):
            pull_layer(store, remote)
    return names
