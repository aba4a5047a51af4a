"""Telling replicas which live layer a store has. Its rows do not travel: each replica follows the stream for itself."""

from forecache.folders import Folder
from forecache.store.live.layer import layer_from_json, write_layer
from forecache.store.store import Store


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
