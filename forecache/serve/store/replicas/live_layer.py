"""Distribution of the live layer's declaration. Rows are not copied: each replica follows the stream itself."""

from forecache.base.folders import Folder
from forecache.base.settings import Settings
from forecache.base.table_names import NAME
from forecache.serve.store.live.layer import layer_from_json, list_stores_with_layers, write_layer
from forecache.serve.store.locks import publisher_lock
from forecache.serve.store.store import Store, open_store


def push_layer(store: Store, remote: Folder) -> None:
    """Copy the file LIVE of a store to a remote, or delete it there; replicas fill the layer from the stream."""
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
    """Copy the file LIVE from a remote, or delete it here if the remote has none."""
    layout = store.layout
    found = remote.read(f"{store.pipeline}/{layout.live.name}")
    if found is None:
        layout.live.unlink(missing_ok=True)
        return
    write_layer(layout, layer_from_json(found[0], what=f"The remote's {store.pipeline}/{layout.live.name}"))


def push_stream_only_stores(settings: Settings, remote: Folder) -> list[str]:
    """Push the live layers of stores without published versions; returns their names."""
    stores = [open_store(settings, name) for name in list_stores_with_layers(settings.store_path)]
    alone = [store for store in stores if store.pointer().current is None]
    for store in alone:
        push_layer(store, remote)
    return [store.pipeline for store in alone]


def pull_stream_only_stores(settings: Settings, remote: Folder) -> list[str]:
    """Pull the live layers of stores without published versions; returns their names."""
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
