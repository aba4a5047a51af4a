"""The live layers of the stores on this machine: open ones, and the lag of each at start.

A reader that has just started gets no requests until its layers are close to their streams. Once a layer has been
close, its lag does not make the reader unready again: otherwise an outage of the lake would take out every replica at
once, and answers of some minutes ago are better than none. Metrics and alerts report that lag.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from forecache.base.errors import ForecacheError, UnavailableError
from forecache.serve.store import Store
from forecache.serve.store.live.layer import LiveLayer, read_layer
from forecache.serve.store.live.reader import LiveReader


class OpenLayer(NamedTuple):
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
        """Open or refresh the live layer of a store; None if it has none."""
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
    return UnavailableError(
        f"{name} has a live layer on this machine and its version in Redis; a live layer needs the version beside it.",
        remedy=f"Bring the version here: `forecache store pull {name}`, or publish with backend lmdb.",
    )


def _file_signature(path: Path) -> object:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class LayerLag:
    """Checks the live layers of a machine's stores until each was close to its stream; `reason` says which is not."""

    def __init__(self) -> None:
        self.reason = ""
        self._near: set[str] = set()

    def check_layers(self, stores: Iterable[Store]) -> None:
        self.reason = ""
        for store in stores:
            if store.pipeline in self._near or not store.layout.live.exists():
                continue
            try:
                layer = read_layer(store.layout)
            except ForecacheError:
                continue  # the catalog reports that it is damaged
            reason = "" if layer is None else _lag_reason(store, layer)
            if reason:
                self.reason = self.reason or reason
            else:
                self._near.add(store.pipeline)


def _lag_reason(store: Store, layer: LiveLayer) -> str:
    """The reason why a layer is not close to its stream; "" if it is, or need not be."""
    if layer.max_lag_s is None:
        return ""
    with LiveReader(store.layout) as reader:
        looked_s = time.time() - reader.looked_at_us / 1e6
        if looked_s > layer.max_lag_s:
            what = f"Nobody follows the stream {layer.stream} for {store.pipeline} here"
            return f"{what}: see whether `forecache stream tail` runs."
        if reader.applied_version < reader.table_version:
            applied = f"version {reader.applied_version} of {layer.table}"
            return f"The live layer of {store.pipeline} has {applied}, which has version {reader.table_version}."
    return ""
