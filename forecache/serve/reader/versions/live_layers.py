"""The open live layers of the stores on this machine, for one process."""

import os
from pathlib import Path
from typing import NamedTuple

from forecache.base.errors import UnavailableError
from forecache.serve.store import Store
from forecache.serve.store.live.layer import LiveLayer, read_layer
from forecache.serve.store.live.reader import LiveReader


class OpenLayer(NamedTuple):
    """A live layer that is open."""

    reader: LiveReader
    declared: LiveLayer

    @property
    def serves_alone(self) -> bool:
        """True if its rows are complete answers without a published version."""
        return self.declared.kind == "rows"


class LiveLayers:
    """Opens live layers and keeps each open while versions change."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[object, OpenLayer]] = {}

    def open_layer(self, store: Store) -> OpenLayer | None:
        """Open or refresh the live layer of a store; None if it has none.

        Raises:
            DamagedError: Its files cannot be read.
        """
        name, path = store.pipeline, store.layout.live
        signature = _file_signature(path)
        known = self._open.get(name)
        if known is not None and known[0] == signature:
            known[1].reader.follow()
            return known[1]
        declared = None if signature is None else read_layer(store.layout)
        if declared is None:
            return None
        reader = LiveReader(store.layout) if known is None else known[1].reader
        reader.follow()
        self._open[name] = (signature, OpenLayer(reader, declared))
        return self._open[name][1]

    def close(self) -> None:
        for _, layer in self._open.values():
            layer.reader.close()
        self._open.clear()


def redis_layer_error(name: str) -> UnavailableError:
    """The error of a pipeline whose version is in Redis and whose live layer is here."""
    return UnavailableError(
        f"{name} has a live layer on this machine and its version in Redis; a live layer needs the version beside it.",
        remedy=f"Bring the version here: `forecache pull {name}`, or publish with backend lmdb.",
    )


def _file_signature(path: Path) -> object:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
